/** The cases of parked executions: nothing but the end of the job lets one go on, and never with the picture. */
import assert from 'node:assert/strict';
import { it } from 'node:test';

import { isParked, output } from './execution.mjs';
import type { Workflow } from './n8n.mjs';
import type { Stage } from './stage.mjs';
import { end, fromFiles, lipsync2 } from './workflows.mjs';

const GOES_ON = { onError: 'continueErrorOutput' };

export function parkedCases(stage: () => Stage): void {
	const parked = (recording: string, more: object = GOES_ON, picture = 'one/*.jpg'): Workflow => {
		const node = lipsync2({ options: { park: true, keepOnServer: true } }, more);
		return fromFiles('parked', stage().file(picture), stage().file(recording), node, end);
	};
	it('a parked execution continues with the video, after a restart of n8n and calls of strangers', async () => {
		const { n8n, server } = stage();
		const known = await server.jobs();
		const id = await n8n.run(await n8n.save(parked('long/*.wav')));
		await n8n.parked(id);
		const job = await server.runningBeside(known);
		const stranger = await fetch(`${n8n.url}/webhook-waiting/${id}`, {
			method: 'POST',
			headers: { 'Content-Type': 'application/json' },
			body: JSON.stringify({ event: 'job.succeeded', job: { id: job.id, state: 'succeeded' } }),
		});
		assert.ok([401, 409].includes(stranger.status), `a stranger gets ${stranger.status}`);
		assert.ok(isParked(await n8n.execution(id)), 'a stranger wakes nothing');
		// A suspended server sends no callback, so the video cannot be finished too early.
		server.freeze();
		await n8n.stop('SIGKILL');
		await n8n.start();
		assert.ok(isParked(await n8n.execution(id)), 'a restart wakes nothing');
		server.thaw();
		const run = await n8n.ended(id, 300);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const [item] = output(run, 'Next');
		assert.equal(item.json.job_id, job.id);
		assert.deepEqual(Object.keys(item.binary ?? {}), ['data'], 'the video and no picture');
		assert.equal(item.binary?.data.mimeType, 'video/mp4');
		const video = await server.video(job.id);
		assert.equal((await n8n.binary(item.binary?.data)).length, video.length);
	});

	it('a parked execution whose job is cancelled leaves by the error output without a file', async () => {
		const { n8n, server } = stage();
		const known = await server.jobs();
		const id = await n8n.run(await n8n.save(parked('long/*.wav')));
		await n8n.parked(id);
		const job = await server.runningBeside(known);
		await server.fetch(`/v1/jobs/${job.id}`, { method: 'DELETE' });
		const run = await n8n.ended(id, 120);
		assert.equal(output(run, 'Lipsync', 0).length, 0);
		const [bad] = output(run, 'Lipsync', 1);
		assert.match(String(bad.json.error), /was cancelled/);
		assert.equal(bad.binary, undefined);
		assert.equal(output(run, 'Next').length, 0, 'the success branch does not run');
	});

	it('a parked execution is refused before anything is sent where an error could not end it', async () => {
		const { n8n, server } = stage();
		const before = (await server.jobs()).length;
		const run = await n8n.tryOut(parked('one/*.wav', {}));
		assert.equal(run.status, 'error');
		assert.match(String(run.data.resultData.error?.message), /needs another On Error/);
		const two = await n8n.tryOut(
			parked('two/*.wav', { onError: 'continueRegularOutput' }, 'two/*.jpg'),
		);
		assert.match(String(output(two, 'Lipsync')[0].json.error), /one item at a time/);
		assert.equal((await server.jobs()).length, before, 'no job was made');
	});
}
