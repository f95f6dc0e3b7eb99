/**
 * Finds the jobs that have ended since the last poll. Each job is found exactly once.
 *
 * The memory is a list of job IDs without a time of day, so a clock that jumps loses no job. A job ID begins with the
 * time of creation: a newer job has a greater ID. Knows nothing of n8n.
 */
import { isFinal, type Job } from '../api/types';

/** The memory between two polls. n8n stores it with the workflow. */
export interface Memory {
	/** IDs of ended jobs that were reported, or that ended before the workflow was switched on. */
	known: string[];
	/** IDs of jobs that were still waiting or running at the last poll. */
	open: string[];
	/** `known` has dropped all jobs up to this ID to stay short. Of these, only the jobs in `open` can still be reported. */
	floor: string;
}

export const EMPTY: Memory = { known: [], open: [], floor: '' };

/** The most IDs that `known` keeps: more than a server usually has jobs. */
const MOST_KNOWN = 5000;

export interface Found {
	/** Jobs that ended since the last poll, the oldest first. */
	ended: Job[];
	open: string[];
}

/** Read pages of jobs, newest first, until no older page can have a job to report. */
export async function findEnded(pages: AsyncIterable<Job[]>, memory: Memory): Promise<Found> {
	const known = new Set(memory.known);
	const missing = new Set(memory.open);
	const ended: Job[] = [];
	const open: string[] = [];
	for await (const page of pages) {
		let nNew = 0;
		for (const job of page) {
			const wasOpen = missing.delete(job.id);
			if (!isFinal(job.state)) open.push(job.id);
			else if (!known.has(job.id) && (wasOpen || job.id > memory.floor)) ended.push(job);
			if (!known.has(job.id) && job.id > memory.floor) nNew++;
		}
		// This page has known jobs only. All older jobs are known too, except jobs that were still open.
		if (nNew === 0 && missing.size === 0) break;
	}
	return { ended: ended.reverse(), open };
}

/** The memory after the workflow received `reported`. All other ended jobs are reported at the next poll. */
export function remember(memory: Memory, found: Found, reported: Job[]): Memory {
	const done = new Set(reported.map(({ id }) => id));
	const notReported = found.ended.filter(({ id }) => !done.has(id)).map(({ id }) => id);
	const known = [...memory.known, ...done];
	const dropped = known.splice(0, Math.max(0, known.length - MOST_KNOWN));
	return {
		known,
		open: [...found.open, ...notReported],
		floor: dropped.reduce((greatest, id) => (id > greatest ? id : greatest), memory.floor),
	};
}
