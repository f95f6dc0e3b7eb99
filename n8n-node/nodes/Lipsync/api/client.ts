/**
 * Requests to the server: JSON in and out, retries where trying again is safe, the video as a stream.
 *
 * Knows HTTP. The credential adds address, token and certificates. Does not know what a job is for. Every request that
 * changes something is either harmless to repeat or carries an Idempotency-Key, so all of them may be retried.
 */
import {
	NodeOperationError,
	sleep,
	type IDataObject,
	type IExecuteFunctions,
	type IHttpRequestOptions,
	type IN8nHttpFullResponse,
} from 'n8n-workflow';

import { isConnectionLost, refused, unreachable, type Context } from './errors';

export type ByteStream = Awaited<ReturnType<IExecuteFunctions['helpers']['getBinaryStream']>>;

export interface Call {
	method: 'GET' | 'POST' | 'DELETE';
	path: string;
	headers?: IDataObject;
	query?: IDataObject;
	/** Made anew for every attempt: a stream can be sent only once. */
	body?: () => Promise<{ content: Buffer | ByteStream; headers: IDataObject }>;
	/** Statuses that are answers, not refusals. */
	accept?: number[];
	/** Give the body as a stream. */
	stream?: boolean;
	timeoutMs?: number;
	itemIndex?: number;
	/** How long lost connections and gateway answers are retried; three tries by default. */
	patienceMs?: number;
	/** Until when a full queue (429) or a server that still loads (503 with Retry-After) is asked again. */
	waitUntil?: number;
}

const REQUEST_TIMEOUT_MS = 60_000;
const DEFAULT_PATIENCE_MS = 6_000;
const LONGEST_PAUSE_MS = 15_000;
const AT_GATEWAY = new Set([502, 503, 504, 520, 521, 522, 523, 524, 530]);

/** Send `call`; gives the server's answer or throws the error that says what to do. */
export async function send(context: Context, call: Call): Promise<IN8nHttpFullResponse> {
	const giveUp = Date.now() + (call.patienceMs ?? DEFAULT_PATIENCE_MS);
	for (let attempt = 0; ; attempt++) {
		throwIfStopped(context);
		const pauseMs = Math.min(1000 * 2 ** attempt, LONGEST_PAUSE_MS);
		let response: IN8nHttpFullResponse;
		try {
			response = await once(context, call);
		} catch (error) {
			throwIfStopped(context);
			if (isConnectionLost(error) && Date.now() + pauseMs <= giveUp) {
				await pause(context, pauseMs);
				continue;
			}
			throw unreachable(context, await serverUrl(context), error, call.itemIndex);
		}
		const status = response.statusCode;
		if ((status >= 200 && status < 300) || call.accept?.includes(status)) return response;
		const retryAfterMs = retryAfter(response.headers);
		const busy = status === 429 || (status === 503 && retryAfterMs !== undefined);
		const wait = busy ? (retryAfterMs ?? pauseMs) : pauseMs;
		const until = busy ? (call.waitUntil ?? giveUp) : AT_GATEWAY.has(status) ? giveUp : 0;
		if (Date.now() + wait > until) {
			const body = call.stream ? await textOf(response) : response.body;
			throw refused(context, status, parsed(body), response.headers, call.itemIndex);
		}
		if (call.stream) (response.body as unknown as ByteStream).destroy();
		await pause(context, wait);
	}
}

/** Send `call` and read the answer as JSON of the kind that this address gives. */
export async function sendJson<T>(context: Context, call: Call): Promise<T> {
	const response = await send(context, call);
	const body = parsed(response.body);
	if (!(body instanceof Object)) {
		throw refused(context, response.statusCode, body, response.headers, call.itemIndex);
	}
	return body as T;
}

/** The absolute address of `path` on the server. */
export async function serverUrl(context: Context, path = ''): Promise<string> {
	const credentials = await context.getCredentials('lipsyncApi');
	return `${String(credentials.baseUrl).trim().replace(/\/+$/, '')}${path}`;
}

/** The same context for requests that have to go out although the execution was stopped. */
export function despiteStop<C extends Context>(context: C): C {
	return Object.create(context, {
		getExecutionCancelSignal: { value: () => undefined },
	}) as C;
}

/** Sleep, but not longer than the execution lives. */
export async function pause(context: Context, ms: number): Promise<void> {
	const signal = stopSignal(context);
	let wake = () => {};
	const stopped = new Promise<void>((resolve) => (wake = resolve));
	signal?.addEventListener('abort', wake, { once: true });
	try {
		await Promise.race([sleep(ms), stopped]);
	} finally {
		signal?.removeEventListener('abort', wake);
	}
	throwIfStopped(context);
}

export function isStopped(context: Context): boolean {
	return stopSignal(context)?.aborted === true;
}

function throwIfStopped(context: Context): void {
	if (isStopped(context)) {
		throw new NodeOperationError(context.getNode(), 'The execution was canceled');
	}
}

function stopSignal(context: Context): AbortSignal | undefined {
	return 'getExecutionCancelSignal' in context ? context.getExecutionCancelSignal() : undefined;
}

async function once(context: Context, call: Call): Promise<IN8nHttpFullResponse> {
	const body = await call.body?.();
	const options: IHttpRequestOptions = {
		method: call.method,
		url: call.path,
		headers: { Accept: 'application/json, */*', ...call.headers, ...body?.headers },
		qs: call.query,
		body: body?.content,
		encoding: call.stream ? 'stream' : undefined,
		returnFullResponse: true,
		ignoreHttpStatusErrors: true,
		// With redirects followed the whole upload would be kept in memory to be sent again.
		disableFollowRedirect: true,
		timeout: call.timeoutMs ?? REQUEST_TIMEOUT_MS,
	};
	try {
		return (await context.helpers.httpRequestWithAuthentication.call(
			context,
			'lipsyncApi',
			options,
		)) as IN8nHttpFullResponse;
	} finally {
		if (body && 'destroy' in body.content) body.content.destroy();
	}
}

function retryAfter(headers: Record<string, unknown>): number | undefined {
	const seconds = Number(headers['retry-after'] ?? Number.NaN);
	return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0.5), 300) * 1000 : undefined;
}

/** The text of a refusal that came as a stream. */
async function textOf(response: IN8nHttpFullResponse): Promise<string> {
	const chunks: Buffer[] = [];
	for await (const chunk of response.body as unknown as ByteStream) chunks.push(chunk as Buffer);
	return Buffer.concat(chunks).toString('utf8');
}

function parsed(body: unknown): unknown {
	if (typeof body !== 'string') return body;
	try {
		return JSON.parse(body);
	} catch {
		return body;
	}
}
