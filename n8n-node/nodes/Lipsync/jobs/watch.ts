/**
 * Follows jobs: looks at them until they end, tells how far they are, cancels them.
 *
 * The server's answer is the only truth. A server that restarts or a tunnel that drops for some minutes does not end
 * the wait: an accepted job survives both.
 */
import { NodeOperationError, type IExecuteFunctions } from 'n8n-workflow';

import { pause, sendJson, despiteStop, send } from '../api/client';
import { messageOf } from '../api/errors';
import { isFinal, type Job } from '../api/types';

const FIRST_PAUSE_MS = 700;
const LONGEST_PAUSE_MS = 10_000;
const GROWTH = 1.4;
const SERVER_AWAY_MS = 600_000;

/** The node stopped waiting; the job goes on. */
export class TookTooLong extends NodeOperationError {
	constructor(
		context: IExecuteFunctions,
		readonly jobId: string,
		message: string,
		itemIndex: number,
	) {
		super(context.getNode(), message, {
			description:
				'It goes on without the node. Raise Timeout, or fetch the video later with Video > Download and this job ID',
			itemIndex,
		});
	}
}

export async function look(
	context: IExecuteFunctions,
	id: string,
	itemIndex: number,
	patienceMs?: number,
): Promise<Job> {
	return await sendJson<Job>(context, {
		method: 'GET',
		path: jobPath(id),
		itemIndex,
		patienceMs,
		waitUntil: patienceMs === undefined ? undefined : Date.now() + patienceMs,
	});
}

/** The job once it has ended, whichever way. Throws after `timeoutMs`; the job then goes on without the node. */
export async function waitForEnd(
	context: IExecuteFunctions,
	id: string,
	timeoutMs: number,
	itemIndex: number,
): Promise<Job> {
	const deadline = Date.now() + timeoutMs;
	const report = reporter(context, itemIndex);
	for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * GROWTH, LONGEST_PAUSE_MS)) {
		const leftMs = Math.max(deadline - Date.now(), 0);
		const job = await look(context, id, itemIndex, Math.min(SERVER_AWAY_MS, leftMs));
		report(job);
		if (isFinal(job.state)) return job;
		if (leftMs === 0) throw tookTooLong(context, job, timeoutMs, itemIndex);
		await pause(context, Math.min(pauseMs, leftMs));
	}
}

/** Stop the job if it has not ended; the job as it then is. Goes out even when the execution was stopped. */
export async function cancel(
	context: IExecuteFunctions,
	id: string,
	itemIndex: number,
): Promise<Job> {
	const reach = despiteStop(context);
	const job = await look(reach, id, itemIndex);
	if (isFinal(job.state)) return job;
	// A job that ends between look and DELETE is deleted with its video; nobody who cancels wants it.
	const response = await send(reach, {
		method: 'DELETE',
		path: jobPath(id),
		accept: [404, 409, 410],
		itemIndex,
	});
	return response.statusCode === 200 || response.statusCode === 202
		? (response.body as unknown as Job)
		: { ...job, state: 'cancelled' };
}

/** Cancel what is still under way because nobody will collect it; says in the log what could not be cancelled. */
export async function abandon(context: IExecuteFunctions, ids: string[]): Promise<void> {
	await Promise.all(
		ids.map(async (id) => {
			try {
				await cancel(context, id, 0);
				context.logger.info(`Lipsync job ${id}: cancelled, its execution has ended`);
			} catch (error) {
				context.logger.warn(`Lipsync job ${id} could not be cancelled: ${messageOf(error)}`);
			}
		}),
	);
}

export function jobPath(id: string, part = ''): string {
	return `/v1/jobs/${encodeURIComponent(id)}${part}`;
}

/** Writes a line to n8n's log, and to the browser's console in a test run, when a job has moved on. */
function reporter(context: IExecuteFunctions, itemIndex: number): (job: Job) => void {
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
	context: IExecuteFunctions,
	job: Job,
	timeoutMs: number,
	itemIndex: number,
): TookTooLong {
	const minutes = Math.round(timeoutMs / 6000) / 10;
	const percent = Math.round(job.progress.fraction * 100);
	return new TookTooLong(
		context,
		job.id,
		`Job ${job.id} is not finished after ${minutes} minutes (${job.state}, ${percent} %)`,
		itemIndex,
	);
}
