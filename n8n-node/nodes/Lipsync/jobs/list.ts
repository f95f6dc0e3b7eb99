/** The server's list of jobs, newest first, page by page. */
import { sendJson } from '../api/client';
import type { Server } from '../api/server';
import type { Job, JobState } from '../api/types';

export const MOST_ON_A_PAGE = 200;

interface JobPage {
	jobs: Job[];
	next: string | null;
}

/** Pages of jobs, newest first, or from the job behind `first` on. The caller stops when it has enough. */
export async function* pagesOfJobs(
	server: Server,
	limit: number,
	state?: JobState,
	first?: string,
): AsyncGenerator<Job[]> {
	for (let after = first; ; ) {
		const page = await sendJson<JobPage>(server, {
			method: 'GET',
			path: '/v1/jobs',
			query: { limit: Math.min(limit, MOST_ON_A_PAGE), state, after },
		});
		yield page.jobs;
		after = page.jobs.at(-1)?.id;
		if (page.next === null || after === undefined) return;
	}
}

/** Up to `limit` jobs, newest first. */
export async function newestJobs(server: Server, limit: number, state?: JobState): Promise<Job[]> {
	const found: Job[] = [];
	for await (const page of pagesOfJobs(server, limit, state)) {
		found.push(...page);
		if (found.length >= limit) break;
	}
	return found.slice(0, limit);
}
