/**
 * Turns refused requests, lost connections and failed jobs into the errors that a person reads in n8n. The message is
 * the server's own sentence; the description below it is the next step.
 */
import { NodeApiError, NodeOperationError, type JsonObject } from 'n8n-workflow';

import type { TimeLimit } from './patience';
import type { Context, Server } from './server';
import type { Job, Problem } from './types';

const WHAT_TO_DO: Record<string, string> = {
	unauthorized:
		'Open the Lipsync API credential and paste the token again. The server prints it when it starts: "token …"',
	no_face: 'Use a picture with one clearly visible face, or set Face Index or Face Box',
	invalid_image: 'Use a JPEG, PNG or WebP picture, and check that Image Field names it',
	invalid_audio: 'Use a WAV, MP3, M4A, OGG or FLAC recording, and check that Audio Field names it',
	unsupported_media:
		'Check which field holds the picture and which the recording; the node sends them as they are',
	too_large: 'Send a smaller file, or raise LIPSYNC_MAX_IMAGE_BYTES or LIPSYNC_MAX_AUDIO_BYTES',
	queue_full: 'Try again later, or raise LIPSYNC_MAX_QUEUE on the server',
	fetch_failed: 'Check that the server (not only n8n) can reach the URL without logging in',
	disk_full: 'Free space on the server, or collect finished videos sooner',
	not_ready: 'Put Lipsync > Server > Wait Until Ready before this node',
	engine_unavailable:
		'Choose another engine; Server > Get Info says which ones can run and why not',
	out_of_memory: 'Use a lower resolution, the Fast preset or a machine with more GPU memory',
	weights: 'Download the model files again on the server: lipsync weights pull',
	worker_crashed: 'Run it again; if it happens twice, the log of the server says why',
	time_limit: 'Use a shorter recording or a faster preset, or raise LIPSYNC_JOB_TIMEOUT_S',
	forbidden: 'This token may only see its own jobs. Use the token that started the job',
	not_found: 'Check the job ID; jobs are forgotten some time after their video was collected',
	gone: 'Download videos before they expire; LIPSYNC_RESULT_TTL sets how long they are kept',
};

/** Where address and token come from the item, other fields are to be checked. */
const WHAT_TO_DO_FROM_INPUT: Record<string, string> = {
	unauthorized:
		'Check Server Token: it is the token of this server, in the output of Machine > Start as {{ $json.token }}',
};
const ADDRESS_FIELD: Record<Server['from'], string> = {
	credential: 'Base URL in the credential',
	input: 'Server Address in the node',
};
const SELF_SIGNED: Record<Server['from'], string> = {
	credential:
		'Turn on Ignore SSL Issues in the Lipsync API credential if the server uses a self-signed one',
	input:
		'Use a server with a trusted certificate, or set Server to From Credential, which has Ignore SSL Issues',
};

const NETWORK_CODES = new Set([
	'ECONNREFUSED',
	'ECONNRESET',
	'ECONNABORTED',
	'ENOTFOUND',
	'EAI_AGAIN',
	'ETIMEDOUT',
	'EPIPE',
	'EHOSTUNREACH',
	'ENETUNREACH',
	'ERR_NETWORK',
	'ERR_STREAM_PREMATURE_CLOSE',
	'UND_ERR_SOCKET',
]);
/** Codes of a request that the node itself aborted because the request took too long. */
const ENDED_BY_TIME = new Set(['ERR_CANCELED', 'ABORT_ERR']);
const CERTIFICATE = /SELF_SIGNED|CERT_|UNABLE_TO_(VERIFY|GET_ISSUER)|ALTNAME/;

/** The system's code of a failed connection (`ECONNREFUSED`), from any depth of the chain of causes; "" without one. */
export function connectionCode(error: unknown): string {
	for (
		let each: unknown = error, depth = 0;
		each instanceof Object && depth < 5;
		each = (each as { cause?: unknown }).cause, depth++
	) {
		const code = (each as { code?: unknown }).code;
		if (typeof code === 'string' && (NETWORK_CODES.has(code) || CERTIFICATE.test(code)))
			return code;
		if (typeof code === 'string' && ENDED_BY_TIME.has(code)) return 'ETIMEDOUT';
		const message = (each as { message?: unknown }).message;
		if (message === 'canceled') return 'ETIMEDOUT';
		if (message === 'aborted' || message === 'socket hang up') return 'ECONNRESET';
	}
	return '';
}

/** Whether trying again can help: the connection was refused, cut or timed out. */
export function isConnectionLost(error: unknown): boolean {
	return NETWORK_CODES.has(connectionCode(error));
}

/** The server's refusal as an error of this node. */
export function refused(
	{ context, itemIndex, from }: Server,
	status: number,
	body: unknown,
	headers: Record<string, unknown>,
): NodeApiError {
	const problem = isProblem(body) ? body : undefined;
	const code = problem?.code ?? (status === 401 ? 'unauthorized' : '');
	const remedies = from === 'input' ? { ...WHAT_TO_DO, ...WHAT_TO_DO_FROM_INPUT } : WHAT_TO_DO;
	return new NodeApiError(context.getNode(), (problem ?? {}) as unknown as JsonObject, {
		message: problem?.detail ?? withoutProblem(status, headers),
		description: remedies[code] ?? problem?.title ?? hintWithoutProblem(status, from),
		httpCode: String(status),
		itemIndex,
	});
}

/** A request without an answer, as an error that names the thing to check. */
export function unreachable(
	{ context, itemIndex, from }: Server,
	address: string,
	error: unknown,
): NodeApiError {
	const code = connectionCode(error);
	const place = address ? ` at ${address}` : '';
	const [message, description] = CERTIFICATE.test(code)
		? [
				`The certificate of the Lipsync server${place} is not trusted`,
				`${SELF_SIGNED[from]} (${code})`,
			]
		: [
				`The Lipsync server${place} cannot be reached`,
				`${advice(address, from)} (${code || messageOf(error)})`,
			];
	return new NodeApiError(
		context.getNode(),
		{ code },
		{ message, description, httpCode: 'unreachable', itemIndex },
	);
}

/** The likely cause of a refused connection, by the address that was tried. */
export function advice(address: string, from: Server['from'] = 'credential'): string {
	const check = `Check that the server runs and that its address (${ADDRESS_FIELD[from]}) is right.`;
	if (/^https?:\/\/(localhost|127\.|\[::1\]|0\.0\.0\.0)/i.test(address)) {
		return `${check} If n8n runs in Docker, localhost is n8n’s own container: write http://host.docker.internal:5000, or the address of the machine in your network`;
	}
	return `${check} Quick tunnels and restarted machines get a new address`;
}

/** The error for a server that has not answered when the node's Timeout is over. */
export async function outOfTime(
	server: Server,
	limit: TimeLimit,
	error: unknown,
): Promise<NodeApiError> {
	const code = connectionCode(error);
	return new NodeApiError(
		server.context.getNode(),
		{ code },
		{
			message: `The Lipsync server at ${await server.address()} did not answer within the Timeout of ${limit.inWords}`,
			description: `Raise Timeout for large files or a slow connection, and check that the server is healthy (${code || messageOf(error)})`,
			httpCode: 'timeout',
			itemIndex: server.itemIndex,
		},
	);
}

/** The error for a download that has fewer or more bytes than the server announced. */
export function truncated(
	server: Server,
	arrived: string,
	expected: number,
	reason: string,
): NodeOperationError {
	return new NodeOperationError(
		server.context.getNode(),
		`The download of the video broke off ${arrived}; it has ${expected} bytes`,
		{
			description: `The video is still on the server: fetch it with Video > Download. Check the disk of n8n and any proxy in front of the server${reason ? ` (${reason})` : ''}`,
			itemIndex: server.itemIndex,
		},
	);
}

/** The error for a job that ended without a video. */
export function jobEnded(context: Context, job: Job, itemIndex?: number): NodeOperationError {
	if (job.state === 'cancelled') {
		return new NodeOperationError(context.getNode(), `Job ${job.id} was cancelled`, {
			description: 'Someone cancelled it on the server; run the node again to make the video',
			itemIndex,
		});
	}
	const hint = WHAT_TO_DO[job.error?.code ?? ''] ?? job.error?.title ?? '';
	return new NodeOperationError(
		context.getNode(),
		job.error?.detail ?? `Job ${job.id} ended without a video`,
		{ description: `${hint}${hint ? ' ' : ''}(job ${job.id})`, itemIndex },
	);
}

/** Any thrown value as one of n8n's two error classes, with the index of its item. */
export function asNodeError(
	context: Context,
	error: unknown,
	itemIndex?: number,
): NodeApiError | NodeOperationError {
	const known =
		error instanceof NodeApiError || error instanceof NodeOperationError
			? error
			: new NodeOperationError(context.getNode(), error as Error);
	if (itemIndex !== undefined) known.context.itemIndex ??= itemIndex;
	return known;
}

export function messageOf(error: unknown): string {
	return error instanceof Error ? error.message : String(error);
}

function isProblem(body: unknown): body is Problem {
	return body instanceof Object && typeof (body as Problem).detail === 'string';
}

function withoutProblem(status: number, headers: Record<string, unknown>): string {
	if (status >= 300 && status < 400) {
		return `The address sends the node on to ${String(headers.location ?? 'another one')}`;
	}
	if (status === 401 || status === 403) return 'The server does not let this credential in';
	return `The answer (${status}) does not come from a Lipsync server`;
}

function hintWithoutProblem(status: number, from: Server['from']): string {
	if (from === 'input' && status < 500) {
		return 'Check Server Address in the node: {{ $json.url }} of the node that started the machine, with its path prefix';
	}
	if (status >= 300 && status < 400) {
		return 'Set the Base URL of the credential to the final address. A login page in front needs its headers in Proxy Headers';
	}
	if (status >= 500) {
		return 'A proxy or tunnel in front answers, but the server behind it does not. Check that it runs';
	}
	return 'Check the Base URL of the credential with its path prefix, and Proxy Headers if a proxy stands in front';
}
