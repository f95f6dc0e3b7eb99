/**
 * Requests to a Lipsync server: JSON in and out, retries, and the video as a stream.
 *
 * Knows HTTP. Does not know the purpose of a job. A request that changes something is either harmless to repeat or
 * carries an Idempotency-Key (the server answers a repeated key with the same job), so every request may be retried.
 */
import {
	NodeOperationError,
	sleep,
	type IDataObject,
	type IExecuteFunctions,
	type IHttpRequestOptions,
	type IN8nHttpFullResponse,
} from 'n8n-workflow';

import { isConnectionLost, outOfTime, refused, unreachable } from './errors';
import { USUAL, type Patience } from './patience';
import type { Context, Server } from './server';

export type ByteStream = Awaited<ReturnType<IExecuteFunctions['helpers']['getBinaryStream']>>;

export interface Call {
	method: 'GET' | 'POST' | 'DELETE';
	path: string;
	headers?: IDataObject;
	query?: IDataObject;
	/** Makes the body. Every attempt makes a new one, because a stream can be sent only once. */
	body?: () => Promise<{ content: Buffer | ByteStream; headers: IDataObject }>;
	/** HTTP statuses other than 2xx that the caller reads as an answer. */
	accept?: number[];
	/** Whether to return the body of the answer as a stream. */
	stream?: boolean;
}

const LONGEST_PAUSE_MS = 15_000;
const AT_GATEWAY = new Set([502, 503, 504, 520, 521, 522, 523, 524, 530]);

/** Send `call`. Returns the server's answer, or throws an error that names the next step. */
export async function send(
	server: Server,
	call: Call,
	patience: Patience = USUAL,
): Promise<IN8nHttpFullResponse> {
	const { context } = server;
	const began = Date.now();
	for (let attempt = 0; ; attempt++) {
		throwIfStopped(context);
		const pauseMs = Math.min(1000 * 2 ** attempt, LONGEST_PAUSE_MS);
		const mayRepeat = (forMs: number, waitMs: number) =>
			Date.now() + waitMs <= began + forMs &&
			(patience.limit === undefined || waitMs < patience.limit.leftMs);
		let response: IN8nHttpFullResponse;
		try {
			response = await once(server, call, patience);
		} catch (error) {
			throwIfStopped(context);
			if (patience.limit?.isOver) throw await outOfTime(server, patience.limit, error);
			if (isConnectionLost(error) && mayRepeat(patience.reconnectMs, pauseMs)) {
				await pause(context, pauseMs);
				continue;
			}
			throw unreachable(server, await server.address(), error);
		}
		const status = response.statusCode;
		if ((status >= 200 && status < 300) || call.accept?.includes(status)) return response;
		const retryAfterMs = retryAfter(response.headers);
		const isBusy = status === 429 || (status === 503 && retryAfterMs !== undefined);
		const waitMs = isBusy ? (retryAfterMs ?? pauseMs) : pauseMs;
		const forMs = isBusy ? patience.busyMs : AT_GATEWAY.has(status) ? patience.reconnectMs : 0;
		if (!mayRepeat(forMs, waitMs)) {
			const body = call.stream ? await textOf(response) : response.body;
			throw refused(server, status, parsed(body), response.headers);
		}
		if (call.stream) (response.body as unknown as ByteStream).destroy();
		await pause(context, waitMs);
	}
}

/** Send `call` and read the answer as JSON of type T. */
export async function sendJson<T>(server: Server, call: Call, patience?: Patience): Promise<T> {
	const response = await send(server, call, patience);
	const body = parsed(response.body);
	if (!(body instanceof Object)) {
		throw refused(server, response.statusCode, body, response.headers);
	}
	return body as T;
}

/** The same server, for requests that are sent even after the execution was stopped. */
export function despiteStop<C extends Context>(server: Server<C>): Server<C> {
	const context = Object.create(server.context, {
		getExecutionCancelSignal: { value: () => undefined },
	}) as C;
	return { ...server, context };
}

/** Sleep for `ms`. Throws at once when the execution is stopped. */
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

/** One attempt. It is aborted when the execution is stopped, after `attemptMs`, or when the item's time is over. */
async function once(
	server: Server,
	call: Call,
	{ attemptMs, limit }: Patience,
): Promise<IN8nHttpFullResponse> {
	const mayTakeMs = Math.max(1, Math.min(attemptMs, limit?.leftMs ?? attemptMs));
	const tooLong = AbortSignal.timeout(mayTakeMs);
	const stop = stopSignal(server.context);
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
		// To follow a redirect, n8n would keep the whole upload in memory and send it a second time.
		disableFollowRedirect: true,
		timeout: mayTakeMs,
	};
	try {
		return (await server.exchange(
			options,
			stop === undefined ? tooLong : AbortSignal.any([stop, tooLong]),
		)) as IN8nHttpFullResponse;
	} finally {
		if (body && 'destroy' in body.content) body.content.destroy();
	}
}

/** Milliseconds of the header Retry-After, which has a number of seconds or, from some proxies, a date. */
function retryAfter(headers: Record<string, unknown>): number | undefined {
	const value = headers['retry-after'];
	if (value === undefined || value === null) return undefined;
	const number = Number(value);
	const seconds = Number.isFinite(number)
		? number
		: (Date.parse(String(value)) - Date.now()) / 1000;
	return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0.5), 300) * 1000 : undefined;
}

/** The text of an error answer that arrived as a stream. */
async function textOf(response: IN8nHttpFullResponse): Promise<string> {
	const chunks: Buffer[] = [];
	for await (const chunk of response.body as unknown as ByteStream) chunks.push(chunk as Buffer);
	return Buffer.concat(chunks).toString('utf8');
}

export function parsed(body: unknown): unknown {
	if (typeof body !== 'string') return body;
	try {
		return JSON.parse(body);
	} catch {
		return body;
	}
}
