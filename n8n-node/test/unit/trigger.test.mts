/** The trigger's memory: every job that ends is reported exactly once. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { IPollFunctions } from 'n8n-workflow';

import { LipsyncTrigger } from '../../nodes/Lipsync/LipsyncTrigger.node.js';
import type { Job, JobState } from '../../nodes/Lipsync/api/types.js';
import { EMPTY, findEnded, remember, type Memory } from '../../nodes/Lipsync/jobs/ended.js';
import { makeContext } from './context.mjs';
import { job, json, serve } from './scripted.mjs';

/** A server's jobs by ID, listed newest first in pages of two. */
class Jobs {
	readonly states = new Map<string, JobState>();
	pagesRead = 0;

	set(id: string, state: JobState): void {
		this.states.set(id, state);
	}

	async *pages(): AsyncGenerator<Job[]> {
		const ids = [...this.states.keys()].sort().reverse();
		for (let at = 0; at < ids.length; at += 2) {
			this.pagesRead++;
			yield await Promise.resolve(
				ids.slice(at, at + 2).map((id) => job(id, String(this.states.get(id))) as Job),
			);
		}
	}
}

async function news(
	jobs: Jobs,
	memory: Memory,
	most = 10_000,
): Promise<{ ids: string[]; memory: Memory }> {
	const found = await findEnded(jobs.pages(), memory);
	const reported = found.ended.slice(0, most);
	return { ids: reported.map(({ id }) => id), memory: remember(memory, found, reported) };
}

describe('the memory of the trigger', () => {
	it('reports each job once, the oldest first, and stops reading at known ones', async () => {
		const jobs = new Jobs();
		for (const id of ['a', 'b', 'c', 'd', 'e', 'f']) jobs.set(id, 'succeeded');
		const first = await news(jobs, EMPTY);
		assert.deepEqual(first.ids, ['a', 'b', 'c', 'd', 'e', 'f']);
		jobs.set('g', 'failed');
		jobs.set('h', 'succeeded');
		jobs.pagesRead = 0;
		const second = await news(jobs, first.memory);
		assert.deepEqual(second.ids, ['g', 'h']);
		assert.equal(jobs.pagesRead, 2);
		assert.deepEqual((await news(jobs, second.memory)).ids, []);
	});

	it('finds a job that ends long after newer ones', async () => {
		const jobs = new Jobs();
		jobs.set('a', 'running');
		for (const id of ['b', 'c', 'd', 'e', 'f']) jobs.set(id, 'succeeded');
		const first = await news(jobs, EMPTY);
		assert.equal(first.ids.length, 5);
		jobs.set('a', 'succeeded');
		const second = await news(jobs, first.memory);
		assert.deepEqual(second.ids, ['a']);
		assert.deepEqual((await news(jobs, second.memory)).ids, []);
	});

	it('reports jobs that did not fit at the next poll', async () => {
		const jobs = new Jobs();
		for (const id of ['a', 'b', 'c']) jobs.set(id, 'succeeded');
		const first = await news(jobs, EMPTY, 2);
		assert.deepEqual(first.ids, ['a', 'b']);
		assert.deepEqual((await news(jobs, first.memory, 2)).ids, ['c']);
	});

	it('reports nothing twice when its list is full or jobs are deleted', async () => {
		const jobs = new Jobs();
		const id = (n: number) => String(n).padStart(6, '0');
		for (let n = 0; n < 6000; n++) jobs.set(id(n), 'succeeded');
		const first = await news(jobs, EMPTY);
		assert.equal(first.ids.length, 6000);
		assert.ok(first.memory.known.length <= 5000);
		for (let n = 3000; n < 6000; n++) jobs.states.delete(id(n));
		jobs.set(id(6000), 'succeeded');
		assert.deepEqual((await news(jobs, first.memory)).ids, [id(6000)]);
	});
});

describe('the polls of the trigger', () => {
	it(
		'report a job once, although n8n starts the next poll while the video is still fetched',
		{ timeout: 20_000 },
		async (t) => {
			const jobs: object[] = [];
			let fetchBegins = () => {};
			const fetching = new Promise<void>((resolve) => (fetchBegins = resolve));
			let letGo = () => {};
			const free = new Promise<void>((resolve) => (letGo = resolve));
			const server = await serve(t, (asked, response) => {
				if (asked.path.endsWith('/video')) {
					fetchBegins();
					void free.then(() =>
						response.writeHead(200, { 'Content-Type': 'video/mp4' }).end('ftyp this is the video'),
					);
				} else if (asked.path.endsWith('/collected')) json(response, 200, job('a', 'succeeded'));
				else json(response, 200, { jobs, next: null });
			});
			const memory = {};
			const fields = {
				events: ['succeeded'],
				qualityBar: 0.5,
				options: {},
				simplify: true,
				downloadVideo: true,
			};
			const context = Object.assign(makeContext({ baseUrl: server.url, parameters: fields }), {
				getMode: () => 'trigger',
				getWorkflowStaticData: () => memory,
			}) as unknown as IPollFunctions;
			const poll = async () => await new LipsyncTrigger().poll.call(context);
			assert.equal(await poll(), null, 'jobs from before the first poll start nothing');
			jobs.push(job('a', 'succeeded'));
			const slow = poll();
			await fetching;
			assert.equal(await poll(), null, 'the earlier poll is still working on the job');
			letGo();
			assert.deepEqual(
				(await slow)?.[0].map(({ json: said }) => said.job_id),
				['a'],
			);
			assert.equal(await poll(), null);
		},
	);
});
