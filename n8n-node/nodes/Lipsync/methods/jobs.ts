/** The list of jobs in the panel, newest first. */
import type { ILoadOptionsFunctions, INodeListSearchResult } from 'n8n-workflow';

import { sendJson } from '../api/client';
import { byCredential } from '../api/server';
import type { Job } from '../api/types';

const ON_A_PAGE = 50;

export async function searchJobs(
	this: ILoadOptionsFunctions,
	filter = '',
	paginationToken?: string,
): Promise<INodeListSearchResult> {
	const page = await sendJson<{ jobs: Job[]; next: string | null }>(byCredential(this), {
		method: 'GET',
		path: '/v1/jobs',
		query: { limit: ON_A_PAGE, after: paginationToken },
	});
	const wanted = filter.toLowerCase();
	const results = page.jobs
		.map(({ id, file_name, state, created_at }) => ({
			name: `${file_name} (${state}, ${created_at.slice(0, 16).replace('T', ' ')})`,
			value: id,
		}))
		.filter(({ name, value }) => `${name} ${value}`.toLowerCase().includes(wanted));
	return {
		results,
		paginationToken: page.next === null ? undefined : page.jobs.at(-1)?.id,
	};
}
