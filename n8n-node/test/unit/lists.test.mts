/** The lists of jobs: Get Many over several pages, and the list of the field Job with its search. */
import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';

import type { ILoadOptionsFunctions, NodeOperationError } from 'n8n-workflow';

import { searchJobs } from '../../nodes/Lipsync/methods/jobs.js';
import { execute, makeContext } from './context.mjs';
import { job, json, serve, type Scripted } from './scripted.mjs';

const N_JOBS = 450;

describe('lists of jobs', () => {
	it('have every job once, newest first, over all pages of the server', async (t) => {
		const { url, asked } = await manyJobs(t);
		const ids = async (parameters: object) =>
			(
				await execute(
					makeContext({ baseUrl: url, parameters: { operation: 'getAll', ...parameters } }),
				)
			).map(({ json: { job_id } }) => job_id);
		const newest = Array.from({ length: N_JOBS }, (_, i) => nameOf(N_JOBS - 1 - i));
		assert.deepEqual(await ids({ returnAll: true }), newest);
		assert.equal(asked.length, 3, 'three pages of at most 200 jobs');
		assert.deepEqual(await ids({ limit: 250 }), newest.slice(0, 250));
		for (const limit of [0, -1, 'many']) {
			await assert.rejects(ids({ limit }), (error: NodeOperationError) => {
				assert.match(error.message, /^Limit is .*; it has to be a number from 1 /);
				return true;
			});
		}
	});

	it('show page after page in the panel, and a search finds a job of any page', async (t) => {
		const { url } = await manyJobs(t);
		const panel = makeContext({ baseUrl: url }) as unknown as ILoadOptionsFunctions;
		const seen: unknown[] = [];
		let token: string | undefined;
		do {
			const page = await searchJobs.call(panel, '', token);
			seen.push(...page.results.map(({ value }) => value));
			token = page.paginationToken as string | undefined;
		} while (token !== undefined);
		assert.equal(new Set(seen).size, N_JOBS);
		const { results, paginationToken } = await searchJobs.call(panel, ' OLDEST ');
		assert.deepEqual(
			results.map(({ value }) => value),
			[nameOf(0)],
		);
		assert.equal(paginationToken, undefined);
		assert.deepEqual((await searchJobs.call(panel, 'no such job')).results, []);
	});
});

/** A server with many jobs. The oldest one has a file name of its own. */
async function manyJobs(t: TestContext): Promise<Scripted> {
	return await serve(t, ({ path }, response) => {
		const query = new URL(path, 'http://server').searchParams;
		const after = query.get('after');
		const end = after === null ? N_JOBS : Number(after.slice(1));
		const begin = Math.max(0, end - Number(query.get('limit')));
		const jobs = Array.from({ length: end - begin }, (_, i) => {
			const number = end - 1 - i;
			return job(nameOf(number), 'succeeded', number === 0 ? { file_name: 'oldest.mp4' } : {});
		});
		json(response, 200, { jobs, next: begin === 0 ? null : `/v1/jobs?after=${nameOf(begin)}` });
	});
}

function nameOf(number: number): string {
	return `j${String(number).padStart(4, '0')}`;
}
