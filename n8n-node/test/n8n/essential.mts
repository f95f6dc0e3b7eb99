/** The cases that have to pass in every supported version of n8n. */
import assert from 'node:assert/strict';
import { copyFileSync, readFileSync } from 'node:fs';
import { it } from 'node:test';

import { TOKEN, type JobView } from './lipsync.mjs';
import { output } from './execution.mjs';
import type { NodeSpec, Workflow } from './n8n.mjs';
import { eventually } from './places.mjs';
import { silentServer, type Stage } from './stage.mjs';
import {
	LIPSYNC,
	end,
	fromFiles,
	items,
	line,
	lipsync,
	lipsync2,
	pollingTrigger,
	read,
	start,
	write,
} from './workflows.mjs';

const CONTINUE = { onError: 'continueErrorOutput' };
const other = (id: string) => ({ credentials: { lipsyncApi: { id, name: id } } });

export function essentialCases(stage: () => Stage): void {
	const from = (folder: string, ...rest: NodeSpec[]): Workflow =>
		fromFiles(
			folder,
			stage().file(folder === 'two' ? 'two/*.jpg' : 'one/*.jpg'),
			stage().file(`${folder}/*.wav`),
			...rest,
		);

	it('makes a video from the only picture and the only recording of an item', async () => {
		const { n8n, file } = at(stage());
		const run = await n8n.tryOut(from('one', lipsync2(), write(file('panel2.mp4'))));
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const [item] = output(run, 'Lipsync');
		assert.equal(item.binary?.data.fileName, 'portrait-lipsync.mp4');
		assert.equal(readFileSync(file('panel2.mp4')).length, item.json.size_bytes);
		assert.ok(Object.keys(item.json).length <= 10, 'with Simplify an item has at most ten fields');
	});

	it('keeps workflows of version 1 of the panel working, with all their fields', async () => {
		const { n8n } = at(stage());
		const run = await n8n.tryOut(from('one', lipsync({ outputField: 'clip', fileName: 'v1.mp4' })));
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const [item] = output(run, 'Lipsync');
		assert.equal(item.binary?.clip.fileName, 'v1.mp4');
		// A server that has checked the video adds the fields of the check.
		assert.ok(Object.keys(item.json).length >= 19, Object.keys(item.json).join());
	});

	it('never lets a failed item leave by the success branch, nor with its picture', async () => {
		const { n8n } = at(stage());
		const run = await n8n.tryOut(from('two', lipsync2({}, CONTINUE)));
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const good = output(run, 'Lipsync', 0);
		const bad = output(run, 'Lipsync', 1);
		assert.deepEqual(
			good.map(({ binary }) => binary?.data.fileName),
			['2-lipsync.mp4'],
		);
		assert.equal(bad.length, 1);
		assert.equal(bad[0].binary, undefined);
		assert.match(String(bad[0].json.error), /picture|read/i);
		assert.match(String(bad[0].json.message), /which field holds the picture/);
	});

	it('returns the inputs of version 1 on the error output only', async () => {
		const { n8n } = at(stage());
		const run = await n8n.tryOut(from('two', lipsync({}, CONTINUE)));
		assert.equal(output(run, 'Lipsync', 0).length, 1);
		const bad = output(run, 'Lipsync', 1);
		assert.equal(bad[0].binary?.image.fileName, '1.jpg');
	});

	it('uses the address of each item when the Base URL is an expression', async () => {
		const { n8n } = at(stage());
		const addresses = items({ url: stage().server.url }, { url: stage().nobody });
		const run = await n8n.tryOut(
			line(
				'addresses',
				start,
				addresses,
				lipsync2(
					{ resource: 'server', operation: 'getInfo' },
					{ ...other('lipsync-expression'), onError: 'continueRegularOutput' },
				),
			),
		);
		const [good, bad] = output(run, 'Lipsync');
		assert.equal(good.json.default_engine, 'preview');
		assert.match(String(bad.json.error), new RegExp(`${stage().nobody} cannot be reached`));
	});

	it('uses the picture of another node that an expression names', async () => {
		const { n8n, file } = at(stage());
		const flow = line(
			'another',
			start,
			read('Read Picture', file('one/portrait.jpg'), 'data'),
			read('Read Recording', file('one/speech.wav'), 'data'),
			lipsync2({ imageField: "={{ $('Read Picture').item.binary.data }}", audioField: 'data' }),
		);
		const run = await n8n.tryOut(flow);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		assert.equal(output(run, 'Lipsync')[0].binary?.data.fileName, 'portrait-lipsync.mp4');
	});

	it('names the files of the item and the way to another node when the picture is missing', async () => {
		const { n8n, file } = at(stage());
		for (const node of [lipsync2(), lipsync()]) {
			const recording = read('Read Recording', file('one/speech.wav'), 'data');
			const run = await n8n.tryOut(line('missing', start, recording, node));
			const { error } = run.data.resultData;
			assert.match(String(error?.message), /no picture.* It has: data \(audio\//);
			assert.match(String(error?.description), /\$\('Name of that node'\)\.item\.binary\.data/);
		}
	});

	it('ends within its Timeout although the server never answers', async () => {
		const { n8n } = at(stage());
		const silent = await silentServer();
		try {
			const server = await n8n.saveCredential('silent', 'lipsyncApi', {
				baseUrl: silent.url,
				token: TOKEN,
			});
			const began = Date.now();
			const run = await n8n.tryOut(
				from(
					'one',
					lipsync2({ options: { timeoutMinutes: 0.05 } }, { credentials: { lipsyncApi: server } }),
				),
			);
			assert.equal(run.status, 'error');
			assert.match(
				String(run.data.resultData.error?.message),
				/did not answer within the Timeout of 0\.05 minutes/,
			);
			assert.ok(Date.now() - began < 50_000, `it took ${Date.now() - began} ms`);
		} finally {
			silent.stop();
		}
	});

	it('keeps quotes and other signs in the name of a picture', async () => {
		const { n8n, file } = at(stage());
		copyFileSync(file('one/portrait.jpg'), file('Jürgen "J" 100%; é 😀.jpg'));
		const run = await n8n.tryOut(
			line(
				'names',
				start,
				read('Read Picture', file('J*.jpg'), 'image'),
				lipsync2({
					audioInput: 'url',
					audioUrl: `${stage().web.url}/speech.wav`,
				}),
			),
		);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const sent = output(run, 'Read Picture')[0].binary?.image.fileName ?? '';
		const job = await stage().server.get<JobView>(
			`/v1/jobs/${String(output(run, 'Lipsync')[0].json.job_id)}`,
		);
		// The server may drop quotes, which are not allowed in every file system. No escape sequence may replace them.
		assert.equal(job.image_name.replaceAll('"', ''), sent.replaceAll('"', ''));
	});

	it('offers the jobs and the engines of the server in lists that can be searched', async () => {
		const { n8n } = stage();
		const search = async (field: string, method: string, filter?: string) =>
			(
				await n8n.rest<{ results: Array<{ name: string; value: string }> }>(
					'POST',
					'/dynamic-node-parameters/resource-locator-results',
					{
						nodeTypeAndVersion: { name: 'n8n-nodes-lipsync.lipsync', version: 2 },
						path: `parameters.${field}`,
						methodName: method,
						currentNodeParameters: { resource: 'video', operation: 'download' },
						credentials: { lipsyncApi: n8n.reference(LIPSYNC.lipsyncApi) },
						filter,
					},
				)
			).results;
		const jobs = await stage().server.jobs();
		const listed = await search('jobId', 'searchJobs');
		assert.deepEqual(
			listed.map(({ value }) => value),
			jobs.slice(0, 50).map(({ id }) => id),
		);
		const [newest] = jobs;
		const found = await search('jobId', 'searchJobs', newest.id.toUpperCase());
		assert.deepEqual(
			found.map(({ value }) => value),
			[newest.id],
		);
		assert.ok(found[0].name.includes(newest.file_name) && found[0].name.includes(newest.state));
		const engines = await search('engine', 'searchEngines', 'prev');
		assert.deepEqual(
			engines.map(({ value }) => value),
			['preview'],
		);
	});

	it('lists jobs newest first over pages, and deletes one permanently', async () => {
		const { n8n } = at(stage());
		const all = await stage().server.jobs();
		const list = { operation: 'getAll', returnAll: true, state: 'succeeded' };
		const run = await n8n.tryOut(line('list', start, lipsync2(list)));
		const ids = output(run, 'Lipsync').map(({ json }) => json.job_id);
		assert.deepEqual(
			ids,
			all.filter(({ state }) => state === 'succeeded').map(({ id }) => id),
		);
		const jobId = { __rl: true, mode: 'id', value: ids[0] };
		const gone = await n8n.tryOut(line('delete', start, lipsync2({ operation: 'delete', jobId })));
		assert.deepEqual(output(gone, 'Lipsync')[0].json, { job_id: ids[0], deleted: true });
		const { status } = await stage().server.fetch(`/v1/jobs/${String(ids[0])}`);
		assert.ok([404, 410].includes(status), `the job answers ${status}`);
	});

	it('uses the server of the input with its own token, and without any credential', async () => {
		const { n8n } = at(stage());
		const flow = line(
			'input',
			start,
			items({ url: stage().server.url, token: TOKEN }, { url: stage().server.url, token: 'wrong' }),
			lipsync2(
				{ resource: 'server', operation: 'getInfo', server: 'input' },
				{ credentials: undefined, onError: 'continueRegularOutput' },
			),
		);
		const [good, bad] = output(await n8n.tryOut(flow), 'Lipsync');
		assert.equal(good.json.default_engine, 'preview');
		assert.match(String(bad.json.error), /token/);
	});

	it('tests the credential and shows the sentence of the server', async () => {
		const { n8n, server, nobody } = stage();
		const saved = await n8n.saveCredential('to be tested', 'lipsyncApi', { baseUrl: server.url });
		const test = async (baseUrl: string, token: string) =>
			await n8n.rest<{ status: string; message: string }>('POST', '/credentials/test', {
				credentials: { ...saved, type: 'lipsyncApi', data: { baseUrl, token } },
			});
		const good = await test(`${server.url}/`, TOKEN);
		assert.equal(good.status, 'OK', good.message);
		assert.match(good.message, /engine preview/);
		const wrong = await test(server.url, 'not-the-token');
		assert.equal(wrong.status, 'Error');
		assert.match(wrong.message, /The server says: .*token/i);
		const away = await test(nobody, TOKEN);
		assert.match(away.message, /Nothing answers at .*host\.docker\.internal.*ECONNREFUSED/s);
		assert.match((await test('gpu.example.com', TOKEN)).message, /http:\/\/ or https:\/\//);
	});

	it('cancels the job when the workflow is stopped', async () => {
		const { n8n, server } = stage();
		const known = await server.jobs();
		const id = await n8n.run(await n8n.save(from('long', lipsync2({ options: { seed: '8' } }))));
		const job = await server.runningBeside(known);
		// n8n 1.x accepts the stop request only after it has registered the execution as running.
		await n8n.rest('POST', `/executions/${id}/stop`);
		await eventually('the job to be cancelled', async () => {
			const { state } = await server.get<{ state: string }>(`/v1/jobs/${job.id}`);
			assert.notEqual(state, 'succeeded');
			return state === 'cancelled' ? true : undefined;
		});
		assert.equal((await n8n.ended(id)).status, 'canceled');
	});

	it('starts a workflow once for every job that ends, over restarts of both sides', async () => {
		const { n8n, server, file } = { ...at(stage()), server: stage().server };
		const submit = async (good = true) =>
			await server.submit(
				readFileSync(file(good ? 'one/portrait.jpg' : 'two/1.jpg')),
				readFileSync(file('one/speech.wav')),
			);
		await server.succeeded(await submit());
		const flow = await n8n.save(line('trigger', pollingTrigger(), end));
		await n8n.activate(flow);
		const ids = [await submit(), await submit()];
		const seen = async () =>
			(await n8n.executionsOf(flow)).flatMap((run) =>
				output(run, 'Next').map(({ json, binary }) => ({ id: json.job_id, binary })),
			);
		const allSeen = async () => {
			const found = await seen();
			return ids.every((id) => found.some((each) => each.id === id)) ? found : undefined;
		};
		const first = await eventually('both videos', allSeen);
		assert.ok(first.every(({ binary }) => binary?.data.fileName === 'portrait-lipsync.mp4'));
		await n8n.stop('SIGKILL');
		ids.push(await submit());
		await server.succeeded(ids[2]);
		await server.stop('SIGKILL');
		await server.start();
		await n8n.start();
		await eventually('the third video', allSeen);
		ids.push(await submit());
		const found = await eventually('the fourth video', allSeen);
		assert.deepEqual(found.map(({ id }) => id).sort(), [...ids].sort(), 'each video once');
		await n8n.deactivate(flow);
	});
}

function at(stage: Stage) {
	const file = (name: string) => stage.file(name);
	return { n8n: stage.n8n, file };
}
