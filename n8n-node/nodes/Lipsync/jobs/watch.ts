/**
 * Polls the state of a job until the job ends, reports its progress, and cancels jobs.
 *
 * Only the server's answer decides the state of a job. A restart of the server, or a tunnel that is down for some
 * minutes, does not end the wait, because an accepted job survives both.
 */
import {
	NodeOperationError,
	type IExecuteFunctions,
	type IN8nHttpFullResponse,
} from 'n8n-workflow';

import { despiteStop, parsed, pause, send } from '../api/client';
import { asNodeError, messageOf, refused } from '../api/errors';
import { USUAL, type Patience, type TimeLimit } from '../api/patience';
import type { Server } from '../api/server';
import { isFinal, type Job } from '../api/types';

const FIRST_PAUSE_MS = 700;
const LONGEST_PAUSE_MS = 10_000;
const GROWTH = 1.4;
const SERVER_AWAY_MS = 600_000;
/** This much of the limit is reserved, so that the last request is sent before the limit is over. */
const LAST_REQUEST_MS = 300;

/** The error for a node that stopped waiting. The job itself continues on the server. */
export class TookTooLong extends NodeOperationError {
	constructor(
		server: Server,
		readonly jobId: string,
		message: string,
	) {
		super(server.context.getNode(), message, {
			description: `The server continues the job. Raise Timeout, or fetch the video later: Video > Download with Job ID ${jobId}`,
			itemIndex: server.itemIndex,
		});
	}
}

export async function readJob(server: Server, id: string, patience?: Patience): Promise<Job> {
	return jobIn(server, await send(server, { method: 'GET', path: jobPath(id) }, patience));
}

/** The job in the answer of the server. Another program may answer 200 to anything, even with JSON: that is refused. */
export function jobIn(server: Server, response: IN8nHttpFullResponse): Job {
	const body = parsed(response.body) as Partial<Job> | null | undefined;
	if (typeof body?.id === 'string' && typeof body.state === 'string') return body as Job;
	throw refused(server, response.statusCode, body, response.headers);
}

/** Wait until the job has ended, and return it. Throws TookTooLong at the end of `limit`; the job then continues. */
export async function waitForEnd(
	server: Server<IExecuteFunctions>,
	id: string,
	limit: TimeLimit,
): Promise<Job> {
	const { context } = server;
	const report = reporter(server);
	const patience = { ...USUAL, reconnectMs: SERVER_AWAY_MS, busyMs: SERVER_AWAY_MS, limit };
	let last: Job | undefined;
	for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * GROWTH, LONGEST_PAUSE_MS)) {
		try {
			last = await readJob(server, id, patience);
		} catch (error) {
			if (limit.isOver) throw tookTooLong(server, id, last, limit);
			throw asNodeError(context, error, server.itemIndex);
		}
		report(last);
		if (isFinal(last.state)) return last;
		if (limit.leftMs <= LAST_REQUEST_MS) throw tookTooLong(server, id, last, limit);
		await pause(context, Math.min(pauseMs, limit.leftMs - LAST_REQUEST_MS));
	}
}

/** Stop the job if it has not ended, and return it. The request is sent even after the execution was stopped. */
export async function cancel(server: Server, id: string): Promise<Job> {
	const reach = despiteStop(server);
	const job = await readJob(reach, id);
	if (isFinal(job.state)) return job;
	// A job that ends between the two requests is deleted with its video. A user who cancels does not want the video.
	const response = await send(reach, {
		method: 'DELETE',
		path: jobPath(id),
		accept: [404, 409, 410],
	});
	return response.statusCode === 200 || response.statusCode === 202
		? (response.body as unknown as Job)
		: { ...job, state: 'cancelled' };
}

/** Cancel a job whose video nobody will download. A failure is only logged. */
export async function abandon(server: Server, id: string): Promise<void> {
	const { logger } = server.context;
	try {
		await cancel(server, id);
		logger.info(`Lipsync job ${id}: cancelled, its execution has ended`);
	} catch (error) {
		logger.warn(`Lipsync job ${id} could not be cancelled: ${messageOf(error)}`);
	}
}

export function jobPath(id: string, part = ''): string {
	return `/v1/jobs/${encodeURIComponent(id)}${part}`;
}

/** Writes the progress of a job to n8n's log, and in a test run to the browser's console, whenever it has changed. */
function reporter({ context, itemIndex }: Server<IExecuteFunctions>): (job: Job) => void {
	let last = '';
	return (job) => {
		const percent = Math.floor(job.progress.fraction * 10) * 10;
		const where =
			job.state === 'queued' && job.queue_position !== null
				? `waiting, ${job.queue_position} before it`
				: `${job.state === 'running' ? job.progress.stage : job.state}, ${percent} %`;
		if (where === last) return;
		last = where;
		const line = `Lipsync job ${job.id} (item ${itemIndex}): ${where}${job.progress.note ? `, ${job.progress.note}` : ''}`;
		context.logger.info(line);
		context.sendMessageToUI(line);
	};
}

function tookTooLong(
	server: Server,
	id: string,
	job: Job | undefined,
	limit: TimeLimit,
): TookTooLong {
	const where =
		job === undefined
			? ''
			: ` (${job.state}, ${Math.round(job.progress.fraction * 100)} % when last asked)`;
	return new TookTooLong(server, id, `Job ${id} is not finished after ${limit.inWords}${where}`);
}
