/**
 * Brings a finished video into n8n: streamed into n8n's binary store, checked for length, then marked as collected.
 */
import { NodeOperationError, type IBinaryData, type IExecuteFunctions } from 'n8n-workflow';

import { pause, send, serverUrl, type ByteStream } from '../api/client';
import { isConnectionLost, messageOf, unreachable } from '../api/errors';
import type { Job } from '../api/types';
import { jobPath } from './watch';

const DOWNLOAD_TIMEOUT_MS = 3_600_000;
const MOST_TRIES = 4;
const PAUSE_MS = 2_000;

/** The video of a succeeded job as a stored binary. */
export async function download(
	context: IExecuteFunctions,
	job: Job,
	itemIndex: number,
): Promise<IBinaryData> {
	for (let attempt = 1; ; attempt++) {
		const response = await send(context, {
			method: 'GET',
			path: jobPath(job.id, '/video'),
			headers: { Accept: 'video/mp4, application/problem+json' },
			stream: true,
			timeoutMs: DOWNLOAD_TIMEOUT_MS,
			itemIndex,
		});
		const stream = response.body as unknown as ByteStream;
		let binary: IBinaryData | undefined;
		try {
			binary = await context.helpers.prepareBinaryData(stream, job.file_name, 'video/mp4');
		} catch (error) {
			stream.destroy();
			if (attempt === MOST_TRIES || !isConnectionLost(error)) {
				throw unreachable(context, await serverUrl(context), error, itemIndex);
			}
		}
		const nBytes = binary === undefined ? 0 : await sizeOf(context, binary);
		const expected = job.result?.size_bytes ?? Number(response.headers['content-length']);
		if (binary !== undefined && nBytes === expected) return binary;
		if (attempt === MOST_TRIES) {
			throw new NodeOperationError(
				context.getNode(),
				`The video arrived with ${nBytes} bytes instead of ${expected}`,
				{ description: 'Check the disk of n8n and any proxy in front of the server', itemIndex },
			);
		}
		context.logger.info(`Lipsync job ${job.id}: the download broke off, trying again`);
		await pause(context, PAUSE_MS);
	}
}

/** Tell the server that the video is safe here, so that it may free the space. A server that is away finds out itself. */
export async function markCollected(
	context: IExecuteFunctions,
	job: Job,
	itemIndex: number,
): Promise<void> {
	try {
		await send(context, { method: 'POST', path: jobPath(job.id, '/collected'), itemIndex });
	} catch (error) {
		context.logger.warn(
			`Lipsync job ${job.id} is downloaded but could not be marked as collected: ${messageOf(error)}`,
		);
	}
}

async function sizeOf(context: IExecuteFunctions, binary: IBinaryData): Promise<number> {
	if (binary.id) return (await context.helpers.getBinaryMetadata(binary.id)).fileSize;
	return Buffer.byteLength(binary.data, 'base64');
}
