/** The list of jobs in the panel, newest first. A search looks through the newest 2,000 jobs of the server. */
import type {
	ILoadOptionsFunctions,
	INodeListSearchItems,
	INodeListSearchResult,
} from 'n8n-workflow';

import { byCredential } from '../api/server';
import type { Job } from '../api/types';
import { MOST_ON_A_PAGE, pagesOfJobs } from '../jobs/list';

/** The number of jobs that the panel gets at once. It asks for the next ones when the user scrolls down. */
const ON_A_PAGE = 50;
const MOST_SEARCHED = 2000;

export async function searchJobs(
	this: ILoadOptionsFunctions,
	filter = '',
	paginationToken?: string,
): Promise<INodeListSearchResult> {
	const server = byCredential(this);
	const wanted = filter.trim().toLowerCase();
	if (wanted === '') {
		const pages = pagesOfJobs(server, ON_A_PAGE, undefined, paginationToken);
		const { value: jobs = [] } = (await pages.next()) as { value?: Job[] };
		const isLast = jobs.length < ON_A_PAGE;
		return { results: jobs.map(lineOf), paginationToken: isLast ? undefined : jobs.at(-1)?.id };
	}
	const results: INodeListSearchItems[] = [];
	let nSearched = 0;
	for await (const jobs of pagesOfJobs(server, MOST_ON_A_PAGE)) {
		const fitting = jobs
			.map(lineOf)
			.filter(({ name, value }) => `${name} ${value}`.toLowerCase().includes(wanted));
		results.push(...fitting);
		nSearched += jobs.length;
		if (results.length >= ON_A_PAGE || nSearched >= MOST_SEARCHED) break;
	}
	return { results };
}

function lineOf({ id, file_name, state, created_at }: Job): INodeListSearchItems {
	const time = created_at.slice(0, 16).replace('T', ' ');
	return { name: `${file_name} (${state}, ${time})`, value: id };
}
