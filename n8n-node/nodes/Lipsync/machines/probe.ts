/**
 * One request to the Lipsync server on a rented machine. The server may not answer yet, or no longer: the caller gets
 * `undefined` then, and no error.
 */
import type { IExecuteFunctions, IHttpRequestOptions, IN8nHttpFullResponse } from 'n8n-workflow';

import { parsed } from '../api/client';

const PROBE_TIMEOUT_MS = 15_000;

export interface ProbeAnswer {
	status: number;
	body: unknown;
}

/** Send one request, with the token in its header unless the token is "". undefined: no server answers there. */
export async function probe(
	context: IExecuteFunctions,
	options: IHttpRequestOptions,
	token = '',
): Promise<ProbeAnswer | undefined> {
	try {
		const response = (await context.helpers.httpRequest({
			method: 'GET',
			...options,
			headers: token === '' ? {} : { Authorization: `Bearer ${token}` },
			returnFullResponse: true,
			ignoreHttpStatusErrors: true,
			disableFollowRedirect: true,
			timeout: PROBE_TIMEOUT_MS,
			abortSignal: AbortSignal.timeout(PROBE_TIMEOUT_MS),
		})) as IN8nHttpFullResponse;
		return { status: response.statusCode, body: parsed(response.body) };
	} catch {
		return undefined;
	}
}

/** The sentence of the server's error answer, or `otherwise`. */
export function detailOf(answer: ProbeAnswer | undefined, otherwise: string): string {
	const detail = (answer?.body as { detail?: unknown } | undefined)?.detail;
	return typeof detail === 'string' ? detail : otherwise;
}
