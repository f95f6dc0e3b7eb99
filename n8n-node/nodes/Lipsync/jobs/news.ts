/**
 * Finds the jobs that have ended since the last look, each exactly once.
 *
 * The memory is a list of job IDs and no time of day, so a clock that jumps on either side loses nothing. IDs of jobs
 * begin with the time of their creation: newer ones are greater. Knows no n8n.
 */
import { isFinal, type Job } from '../api/types';

/** The memory between two looks. n8n stores it with the workflow. */
export interface Memory {
	/** IDs of jobs that have ended and were reported or were there before the workflow was switched on. */
	known: string[];
	/** IDs of jobs that were still waiting or running at the last look. */
	open: string[];
	/** Jobs up to this ID were pushed out of `known` by newer ones; only those in `open` are still news. */
	floor: string;
}

export const EMPTY: Memory = { known: [], open: [], floor: '' };

/** More than a server shows on its pages before somebody deletes jobs. */
const MOST_KNOWN = 5000;

export interface Look {
	/** Jobs that ended since the last look, the oldest first. */
	ended: Job[];
	open: string[];
}

/** Read pages of jobs, newest first, as far back as news can be. */
export async function lookForNews(pages: AsyncIterable<Job[]>, memory: Memory): Promise<Look> {
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
		// A page of known jobs alone: everything older is known too, except jobs that were still open.
		if (nNew === 0 && missing.size === 0) break;
	}
	return { ended: ended.reverse(), open };
}

/** The memory after `reported` were handed on. Jobs that were not stay news for the next look. */
export function remember(memory: Memory, look: Look, reported: Job[]): Memory {
	const done = new Set(reported.map(({ id }) => id));
	const stillNews = look.ended.filter(({ id }) => !done.has(id)).map(({ id }) => id);
	const known = [...memory.known, ...done];
	const dropped = known.splice(0, Math.max(0, known.length - MOST_KNOWN));
	return {
		known,
		open: [...look.open, ...stillNews],
		floor: dropped.reduce((greatest, id) => (id > greatest ? id : greatest), memory.floor),
	};
}
