/** The cases of the webhook trigger: the real server calls the real n8n. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { it } from 'node:test';

import { output } from './execution.mjs';
import type { Workflow } from './n8n.mjs';
import { eventually } from './places.mjs';
import type { Stage } from './stage.mjs';
import { end, line, webhookTrigger } from './workflows.mjs';

interface WebhookView {
	id: string;
	url: string;
	events: string[];
}

export function webhookCases(stage: () => Stage): void {
	const submit = async () =>
		await stage().server.submit(
			readFileSync(stage().file('one/portrait.jpg')),
			readFileSync(stage().file('one/speech.wav')),
		);
	const webhooks = async () =>
		(await stage().server.get<{ webhooks: WebhookView[] }>('/v1/webhooks')).webhooks;
	// n8n 2.x answers before it has switched the workflow on or off.
	const registered = async () =>
		await eventually('the webhook', async () => {
			const found = await webhooks();
			return found.length > 0 ? found : undefined;
		});
	const removed = async () =>
		await eventually('no webhook', async () =>
			(await webhooks()).length === 0 ? true : undefined,
		);
	const seen = async (flow: Workflow) =>
		(await stage().n8n.executionsOf(flow)).flatMap((run) => output(run, 'Next'));
	const allOf = async (flow: Workflow, ids: string[]) =>
		await eventually('the videos', async () => {
			const items = await seen(flow);
			return ids.every((id) => items.some(({ json }) => json.job_id === id)) ? items : undefined;
		});

	it('is called by the server for every job, once, over restarts of both sides', async () => {
		const { n8n, server } = stage();
		const saved = await n8n.save(line('webhook', webhookTrigger(), end));
		assert.deepEqual(await webhooks(), []);
		await n8n.activate(saved);
		const [webhook, ...more] = await registered();
		assert.equal(more.length, 0);
		assert.ok(webhook.url.startsWith(`${n8n.url}/webhook/`), webhook.url);
		assert.deepEqual(webhook.events, ['job.succeeded']);
		const ids = [await submit(), await submit()];
		const first = await allOf(saved, ids);
		assert.ok(first.every(({ binary }) => binary?.data.fileName === 'portrait-lipsync.mp4'));
		await n8n.stop('SIGKILL');
		ids.push(await submit());
		await server.succeeded(ids[2]);
		await server.stop('SIGKILL');
		await server.start();
		await n8n.start();
		await allOf(saved, ids);
		ids.push(await submit());
		const items = await allOf(saved, ids);
		assert.deepEqual(items.map(({ json }) => json.job_id).sort(), [...ids].sort(), 'each once');
		assert.deepEqual(
			(await webhooks()).map(({ id }) => id),
			[webhook.id],
			'the restart registered no second one',
		);

		const { key } = await registration(n8n, saved);
		const post = async (body: string, atS: number, by = key) => {
			const hex = createHmac('sha256', by).update(`${atS}.${body}`).digest('hex');
			const answer = await fetch(webhook.url, {
				method: 'POST',
				headers: { 'Content-Type': 'application/json', 'Lipsync-Signature': `t=${atS},v1=${hex}` },
				body,
			});
			return answer.status;
		};
		const nowS = Math.floor(Date.now() / 1000);
		const known = JSON.stringify({ event: 'job.succeeded', job: { id: ids[0] } });
		assert.equal(await post(known, nowS), 200, 'a replay is accepted and starts nothing');
		assert.equal(await post(known, nowS - 3600), 401, 'an old signature');
		assert.equal(await post(known, nowS, 'another key'), 401, 'another key');
		const unsigned = await fetch(webhook.url, { method: 'POST', body: known });
		assert.equal(unsigned.status, 401);
		assert.equal((await seen(saved)).length, ids.length);

		await n8n.deactivate(saved);
		await removed();
	});

	it('starts without the video and on failures where the panel is set so', async () => {
		const { n8n, server } = stage();
		const parameters = { events: ['failed', 'succeeded'], downloadVideo: false };
		const flow = await n8n.save(line('webhook-plain', webhookTrigger(parameters), end));
		await n8n.activate(flow);
		assert.deepEqual((await registered())[0].events, ['job.succeeded', 'job.failed']);
		const good = await submit();
		const [item] = await allOf(flow, [good]);
		assert.equal(item.binary, undefined);
		assert.equal(item.json.state, 'succeeded');
		await n8n.deactivate(flow);
		await removed();
		const after = await submit();
		await server.succeeded(after);
		assert.equal((await seen(flow)).length, 1, 'switched off, nothing starts');
	});
}

/** The registration that n8n keeps with the workflow. */
async function registration(n8n: Stage['n8n'], flow: Workflow): Promise<{ key: string }> {
	const found = await n8n.rest<{ staticData: string | Record<string, { live: { key: string } }> }>(
		'GET',
		`/workflows/${flow.id}`,
	);
	const memory =
		typeof found.staticData === 'string'
			? (JSON.parse(found.staticData) as Record<string, { live: { key: string } }>)
			: found.staticData;
	return memory['node:Trigger'].live;
}
