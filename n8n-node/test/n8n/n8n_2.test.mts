/** The packed node inside a real n8n, against the real server with the preview engine. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { everyCase } from './cases.mjs';
import { example as shipped, sendPair } from './example.mjs';
import { TOKEN, type JobView, type LipsyncServer } from './lipsync.mjs';
import { output } from './execution.mjs';
import type { N8n, NodeSpec, Workflow } from './n8n.mjs';
import { N8N_2, eventually } from './places.mjs';
import { drawnCases } from './sharing.mjs';
import { Stage } from './stage.mjs';
import { LIPSYNC, end, fromFiles, line, lipsync, start, write } from './workflows.mjs';

describe('the node in n8n 2.x', { timeout: 3_600_000 }, () => {
	const flows: Record<string, Workflow> = {};
	let stage: Stage;
	let server: LipsyncServer;
	let n8n: N8n;

	before(async () => {
		stage = await Stage.withGoogle(N8N_2);
		({ server, n8n } = stage);
		await stage.open();
		const data = { name: 'Authorization', value: `Bearer ${TOKEN}` };
		await n8n.addCredentials([{ id: 'bearer', name: 'Bearer', type: 'httpHeaderAuth', data }]);
		defineFlows();
	});

	after(async () => await stage?.clear());

	everyCase(() => stage, '2.x');
	drawnCases(() => stage);

	it('passes the bytes and the name of the video to the next node', async () => {
		const run = await n8n.tryOut(flows.poll);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const [item] = output(run, 'Lipsync');
		const bytes = readFileSync(join(n8n.files, 'out.mp4'));
		const video = await server.video(String(item.json.job_id));
		assert.equal(sha256(bytes), sha256(video));
		assert.equal(sha256(bytes), item.json.sha256);
		assert.equal(bytes.length, item.json.size_bytes);
		assert.equal(item.binary?.data.fileName, 'portrait-lipsync.mp4');
		assert.equal(item.binary?.data.mimeType, 'video/mp4');
		assert.ok(item.binary?.data.id, 'the video is a stored binary with an id');
		assert.deepEqual(item.pairedItem, { item: 0 });
		assert.ok(Math.abs(Number(item.json.duration_s) - 1.2) < 0.05);
		assert.equal(item.json.engine, 'preview');
		const job = await server.get<JobView>(`/v1/jobs/${String(item.json.job_id)}`);
		assert.notEqual(job.collected_at, null, 'the job is marked as collected');
	});

	it('continues with the good item when a bad picture fails and Continue On Fail is set', async () => {
		const run = await n8n.tryOut(flows.continueOnFail);
		assert.equal(run.status, 'success');
		const [bad, good] = output(run, 'Next');
		assert.match(String(bad.json.error), /picture|read/i);
		assert.equal(bad.binary, undefined, 'the picture must not be in the place of the video');
		assert.deepEqual(bad.pairedItem, { item: 0 });
		assert.equal(good.binary?.data.fileName, '2-lipsync.mp4');
		assert.equal(good.json.state, 'succeeded');
	});

	it('names the credential when the token is wrong', async () => {
		const run = await n8n.tryOut(flows.wrongToken);
		assert.equal(run.status, 'error');
		const error = run.data.resultData.error;
		assert.match(String(error?.message), /token/);
		assert.match(String(error?.description), /credential/);
		assert.equal(error?.httpCode, '401');
	});

	it('reports that the server cannot be reached, with its address', async () => {
		const run = await n8n.tryOut(flows.nobody);
		assert.equal(run.status, 'error');
		const error = run.data.resultData.error;
		assert.match(String(error?.message), /127\.0\.0\.1:\d+ cannot be reached/);
		assert.match(String(error?.description), /Base URL/);
	});

	it('finishes a video although the server is killed and restarted in the middle', async () => {
		const before = await server.jobs();
		const id = await n8n.run(await n8n.save(flows.restart));
		const job = await server.runningBeside(before, 'generate');
		await server.stop('SIGKILL');
		await server.start();
		const run = await n8n.ended(id);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const [item] = output(run, 'Lipsync');
		assert.equal(item.json.job_id, job.id);
		const video = await server.video(job.id);
		assert.equal(item.json.sha256, sha256(video));
		assert.equal((await server.jobs()).length, before.length + 1, 'no second job was made');
	});

	it('renders once when Retry On Fail runs the node again', async () => {
		const before = (await server.jobs()).length;
		const run = await n8n.tryOut(flows.retry);
		assert.equal(run.status, 'error');
		assert.match(String(run.data.resultData.error?.message), /not finished after/);
		assert.equal((await server.jobs()).length, before + 1);
		const [job] = await server.jobs();
		await server.fetch(`/v1/jobs/${job.id}`, { method: 'DELETE' });
	});

	it('fetches a video later whose execution was parked while n8n restarted', async () => {
		const id = await n8n.run(await n8n.save(flows.parked));
		await n8n.parked(id);
		await n8n.stop('SIGKILL');
		await n8n.start();
		const run = await n8n.ended(id);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const [item] = output(run, 'Download');
		assert.equal(item.binary?.data.fileName, 'later.mp4');
		assert.equal(item.json.sha256, sha256(await server.video(String(item.json.job_id))));
	});

	it('uploads the whole video with the Google Drive node of n8n', async () => {
		const { google } = stage;
		google.forget();
		const run = await n8n.tryOut(flows.drive);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const [item] = output(run, 'Lipsync');
		const [upload] = google.uploads;
		assert.equal(sha256(upload.bytes), item.json.sha256);
		assert.equal(upload.announced, item.json.size_bytes);
		assert.equal(upload.mimeType, 'video/mp4');
		assert.equal(upload.name, 'for-drive.mp4');
	});

	it('runs the example from a form to a download, without any account but the server', async () => {
		const waiting = await sendPair(stage, await n8n.save(flows.form));
		const page = await eventually('the page with the video', async () => {
			// While the workflow runs, n8n keeps the request open, before its head or within its body.
			const text = await fetch(waiting, { signal: AbortSignal.timeout(5_000) })
				.then(async (answer) => await answer.text())
				.catch(() => '');
			return text.includes('me-lipsync.mp4') ? text : undefined;
		});
		assert.match(page, /video(\/|%2F)mp4/);
	});

	it('runs the example of the first try from files to a file', async () => {
		const run = await n8n.tryOut(flows.disk);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const bytes = readFileSync(join(n8n.files, 'portrait-lipsync.mp4'));
		assert.equal(sha256(bytes), output(run, 'Lipsync')[0].json.sha256);
	});

	it('serves the plain HTTP Request node as before', async () => {
		const run = await n8n.tryOut(flows.plain);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const bytes = readFileSync(join(n8n.files, 'plain.mp4'));
		assert.equal(bytes.subarray(4, 8).toString(), 'ftyp');
		assert.equal(output(run, 'Post')[0].binary?.data.mimeType, 'video/mp4');
	});

	it('reports engines and readiness, and lists the engines in the panel', async () => {
		const run = await n8n.tryOut(flows.server);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		assert.equal(output(run, 'Ready')[0].json.engine, 'preview');
		assert.equal(output(run, 'Info')[0].json.default_engine, 'preview');
		const options = await n8n.rest<Array<{ value: string }>>(
			'POST',
			'/dynamic-node-parameters/options',
			{
				nodeTypeAndVersion: { name: 'n8n-nodes-lipsync.lipsync', version: 1 },
				path: 'parameters.engine',
				methodName: 'getEngines',
				currentNodeParameters: { resource: 'video', operation: 'generate' },
				credentials: { lipsyncApi: n8n.reference(LIPSYNC.lipsyncApi) },
			},
		);
		assert.deepEqual(
			options.slice(0, 1).map(({ value }) => value),
			['auto'],
		);
		assert.ok(options.some(({ value }) => value === 'preview'));
	});

	function defineFlows(): void {
		const one = (id: string, ...rest: NodeSpec[]) =>
			fromFiles(id, join(n8n.files, 'one/*.jpg'), join(n8n.files, 'one/*.wav'), ...rest);
		const long = (id: string, ...rest: NodeSpec[]) =>
			fromFiles(id, join(n8n.files, 'one/*.jpg'), join(n8n.files, 'long/*.wav'), ...rest);
		const two = (id: string, ...rest: NodeSpec[]) =>
			fromFiles(id, join(n8n.files, 'two/*.jpg'), join(n8n.files, 'two/*.wav'), ...rest);
		const other = (id: string) => ({ credentials: { lipsyncApi: { id, name: id } } });
		flows.poll = one('poll', lipsync({ prompt: 'A test' }), write(join(n8n.files, 'out.mp4')));
		flows.continueOnFail = two(
			'continueOnFail',
			lipsync({}, { onError: 'continueRegularOutput' }),
			end,
		);
		flows.wrongToken = one('wrongToken', lipsync({}, other('lipsync-wrong-token')));
		flows.nobody = one('nobody', lipsync({}, other('lipsync-nobody')));
		flows.restart = long('restart', lipsync({ seed: '7' }), end);
		flows.retry = long(
			'retry',
			lipsync(
				{ seed: '9', timeoutMinutes: 0.02 },
				{ retryOnFail: true, maxTries: 2, waitBetweenTries: 100 },
			),
		);
		flows.parked = long(
			'parked',
			lipsync({
				wait: 'none',
				fileName: 'later.mp4',
				additionalFields: { callbackUrl: '={{ $execution.resumeUrl }}' },
			}),
			{
				name: 'Wait',
				type: 'n8n-nodes-base.wait',
				typeVersion: 1.1,
				webhookId: 'wait-for-lipsync',
				parameters: { resume: 'webhook', httpMethod: 'POST', options: {} },
			},
			lipsync(
				{ operation: 'download', jobId: "={{ $('Lipsync').item.json.job_id }}" },
				{ name: 'Download' },
			),
		);
		flows.drive = one('drive', lipsync({ fileName: 'for-drive.mp4' }), {
			name: 'Drive',
			type: 'n8n-nodes-base.googleDrive',
			typeVersion: 3,
			parameters: {
				authentication: 'serviceAccount',
				resource: 'file',
				operation: 'upload',
				name: '={{ $binary.data.fileName }}',
				driveId: { __rl: true, mode: 'list', value: 'My Drive' },
				folderId: { __rl: true, mode: 'list', value: 'root' },
				options: {},
			},
			credentials: { googleApi: { id: 'google', name: 'Google' } },
		});
		flows.plain = one(
			'plain',
			{
				name: 'Post',
				type: 'n8n-nodes-base.httpRequest',
				typeVersion: 4.2,
				parameters: {
					method: 'POST',
					url: `${server.url}/lipsync`,
					authentication: 'genericCredentialType',
					genericAuthType: 'httpHeaderAuth',
					sendBody: true,
					contentType: 'multipart-form-data',
					bodyParameters: {
						parameters: [
							{ parameterType: 'formBinaryData', name: 'image', inputDataFieldName: 'image' },
							{ parameterType: 'formBinaryData', name: 'audio', inputDataFieldName: 'audio' },
							{ parameterType: 'formData', name: 'prompt', value: 'A person talks' },
						],
					},
					options: { timeout: 3600000, response: { response: { responseFormat: 'file' } } },
				},
				credentials: { httpHeaderAuth: { id: 'bearer', name: 'Bearer' } },
			},
			write(join(n8n.files, 'plain.mp4')),
		);
		flows.form = example('1-form-to-download.json');
		flows.disk = example('7-test-to-disk.json', [
			['/files/portrait.jpg', join(n8n.files, 'one/portrait.jpg')],
			['/files/speech.wav', join(n8n.files, 'one/speech.wav')],
			['=/files/', `=${n8n.files}/`],
		]);
		flows.server = line(
			'server',
			start,
			lipsync({ resource: 'server', operation: 'waitUntilReady' }, { name: 'Ready' }),
			lipsync({ resource: 'server', operation: 'getInfo' }, { name: 'Info' }),
		);
	}
});

const ACCOUNTS = {
	'.httpRequest': { httpHeaderAuth: { id: 'bearer', name: 'Bearer' } },
	'.googleDrive': { googleApi: { id: 'google', name: 'Google' } },
};

function example(file: string, changes: Array<[string, string]> = []): Workflow {
	return shipped(file, changes, ACCOUNTS);
}

function sha256(bytes: Buffer): string {
	return createHash('sha256').update(bytes).digest('hex');
}
