/**
 * Downloads a finished video into n8n's binary store, checks its length, and marks the job as collected.
 * "Collected" means that the server may delete the video.
 */
import type {
	IBinaryData,
	IExecuteFunctions,
	IPollFunctions,
	IWebhookFunctions,
} from 'n8n-workflow';

import { pause, send, type ByteStream } from '../api/client';
import { asNodeError, isConnectionLost, messageOf, outOfTime, truncated } from '../api/errors';
import { TRANSFER, type TimeLimit } from '../api/patience';
import type { Server } from '../api/server';
import type { Job } from '../api/types';
import { jobPath } from './watch';

/** The functions that n8n gives where a file can be stored. */
export type Storing = IExecuteFunctions | IPollFunctions | IWebhookFunctions;

const MOST_TRIES = 4;
const PAUSE_MS = 2_000;

/** Download the video of a succeeded job into n8n's binary store. */
export async function download(
	server: Server<Storing>,
	job: Job,
	limit?: TimeLimit,
): Promise<IBinaryData> {
	const { context } = server;
	for (let attempt = 1; ; attempt++) {
		const response = await send(
			server,
			{
				method: 'GET',
				path: jobPath(job.id, '/video'),
				headers: {
					Accept: 'video/mp4, application/problem+json',
					// Without this header a complete download counts as collected, even if n8n then fails to store the file.
					'Lipsync-Keep': 'true',
				},
				stream: true,
			},
			{ ...TRANSFER, limit },
		);
		const stream = response.body as unknown as ByteStream;
		const expected = job.result?.size_bytes ?? Number(response.headers['content-length']);
		let arrived = 'before the end';
		let reason = '';
		try {
			const binary = await context.helpers.prepareBinaryData(stream, job.file_name, 'video/mp4');
			const nBytes = await sizeOf(context, binary);
			if (nBytes === expected) return binary;
			arrived = `after ${nBytes} bytes`;
		} catch (error) {
			stream.destroy();
			if (limit?.isOver) throw await outOfTime(server, limit, error);
			if (!isConnectionLost(error)) throw asNodeError(context, error, server.itemIndex);
			reason = messageOf(error);
		}
		if (attempt === MOST_TRIES) throw truncated(server, arrived, expected, reason);
		context.logger.info(`Lipsync job ${job.id}: the download broke off, trying again`);
		await pause(context, PAUSE_MS);
	}
}

/** The captions of a finished video as an SRT file under the name of the video. */
export async function captionFile(server: Server<Storing>, job: Job): Promise<IBinaryData> {
	const { body } = await send(server, { method: 'GET', path: jobPath(job.id, '/captions.srt') });
	const name = job.file_name.replace(/\.mp4$/i, '.srt');
	const bytes = Buffer.from(String(body), 'utf8');
	return await server.context.helpers.prepareBinaryData(bytes, name, 'application/x-subrip');
}

/** The first frame of a finished video as a JPEG picture under the name of the video. */
export async function posterFile(server: Server<Storing>, job: Job): Promise<IBinaryData> {
	const { body } = await send(server, {
		method: 'GET',
		path: jobPath(job.id, '/poster.jpg'),
		stream: true,
	});
	const name = job.file_name.replace(/\.mp4$/i, '.jpg');
	return await server.context.helpers.prepareBinaryData(
		body as unknown as ByteStream,
		name,
		'image/jpeg',
	);
}

/** The contact sheet of a checked video, a JPEG under the name of the video. */
export async function sheetFile(server: Server<Storing>, job: Job): Promise<IBinaryData> {
	const path = jobPath(job.id, '/sheet');
	const { body } = await send(server, { method: 'GET', path, stream: true }, TRANSFER);
	const name = job.file_name.replace(/\.mp4$/i, '.sheet.jpg');
	const stream = body as unknown as ByteStream;
	return await server.context.helpers.prepareBinaryData(stream, name, 'image/jpeg');
}

/** Mark the job as collected: n8n has stored the video, and the server may delete it. A failure is only logged. */
export async function markCollected(server: Server, job: Job): Promise<void> {
	try {
		await send(server, { method: 'POST', path: jobPath(job.id, '/collected') });
	} catch (error) {
		server.context.logger.warn(
			`Lipsync job ${job.id} is downloaded but could not be marked as collected: ${messageOf(error)}`,
		);
	}
}

async function sizeOf(context: Storing, binary: IBinaryData): Promise<number> {
	if (binary.id) return (await context.helpers.getBinaryMetadata(binary.id)).fileSize;
	return Buffer.byteLength(binary.data, 'base64');
}
