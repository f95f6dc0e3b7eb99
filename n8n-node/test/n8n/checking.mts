/** The cases of the check: a good video is published, with captions and marks; a bad one stops the workflow. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { it } from 'node:test';

import { output, type Execution } from './execution.mjs';
import { LipsyncServer, TOKEN } from './lipsync.mjs';
import type { CredentialReference, NodeSpec, Workflow } from './n8n.mjs';
import { LIPSYNC, ROOT, SAMPLES, eventually } from './places.mjs';
import { GENERATED, sealOf } from './seal.mjs';
import { firstSeconds, type Stage } from './stage.mjs';
import {
	end,
	fromFiles,
	line,
	lipsync2,
	pollingTrigger,
	to,
	webhookTrigger,
} from './workflows.mjs';

const SCRIPT = 'Hello! I used to be a still picture.';
const BAR = 0.6;
/** Serves the engine `takes`. With seed 43 it makes the preview's frames; with seed 42 the same frames flicker. */
const TAKES = [
	join(dirname(LIPSYNC), 'python'),
	join(ROOT, 'tests/support/server_process.py'),
	'bars',
];
const GOOD_SEED = 43;
const BAD_SEED = 42;

export function checkCases(stage: () => Stage): void {
	it('publishes a good video with captions and marks, stops on a bad one, and both triggers report both', async () => {
		const { n8n, google } = stage();
		const file = (name: string) => stage().file(name);
		mkdirSync(file('spoken'), { recursive: true });
		copyFileSync(join(SAMPLES, 'portrait.jpg'), file('spoken/portrait.jpg'));
		const speech = readFileSync(join(SAMPLES, 'speech.wav'));
		writeFileSync(file('spoken/speech.wav'), firstSeconds(speech, 2.5));
		const server = await LipsyncServer.program(TAKES, file('takes'), {
			LIPSYNC_ALLOW_PRIVATE_URLS: 'true',
		});
		const listeners: Workflow[] = [];
		try {
			const account = await n8n.saveCredential('takes', 'lipsyncApi', {
				baseUrl: server.url,
				token: TOKEN,
			});
			const credentials = { lipsyncApi: account };
			const wanted = { events: ['belowQuality'], qualityBar: BAR };
			for (const trigger of [pollingTrigger, webhookTrigger])
				listeners.push(await n8n.save(line('below', trigger(wanted, { credentials }), end)));
			for (const flow of listeners) await n8n.activate(flow);
			await eventually('the webhook', async () => {
				const { webhooks } = await server.get<{ webhooks: unknown[] }>('/v1/webhooks');
				return webhooks.length > 0 ? true : undefined;
			});
			const files = [file('spoken/*.jpg'), file('spoken/*.wav')] as const;
			const publish = async (name: string, seed: number): Promise<Execution> =>
				await n8n.tryOut(
					withRejects(fromFiles(name, ...files, checked(seed, account), youTube, synthetic)),
				);

			google.forget();
			const good = await publish('good', GOOD_SEED);
			assert.equal(good.status, 'success', JSON.stringify(good.data.resultData.error));
			const [item] = output(good, 'Lipsync');
			assert.ok((item.json.quality as { score: number }).score > 0.8);
			assert.equal(output(good, 'Lipsync', 1).length, 0);
			const [published] = google.uploads;
			assert.equal(google.uploads.length, 1);
			assert.equal(createHash('sha256').update(published.bytes).digest('hex'), item.json.sha256);
			assert.ok(published.bytes.includes('tx3g'), 'the published video has its captions');
			const copy = file('published.mp4');
			writeFileSync(copy, published.bytes);
			assert.deepEqual(sealOf(copy), GENERATED);
			assert.deepEqual(google.updates, [
				{ id: 'file-0', status: { privacyStatus: 'private', containsSyntheticMedia: true } },
			]);

			const bad = await publish('bad', BAD_SEED);
			assert.equal(bad.status, 'success', JSON.stringify(bad.data.resultData.error));
			assert.equal(bad.data.resultData.runData.YouTube, undefined);
			assert.equal(google.uploads.length, 1, 'nothing more was published');
			const [rejected] = output(bad, 'Rejected');
			const { score, findings } = rejected.json.quality as {
				score: number;
				findings: Array<{ name: string }>;
			};
			assert.ok(score < BAR);
			assert.ok(findings.some(({ name }) => name === 'flicker'));
			assert.equal(rejected.binary?.sheet.mimeType, 'image/jpeg');

			// The good video ended first. A trigger that has reported the bad video has therefore skipped the good one.
			for (const flow of listeners) {
				const told = await eventually(`the trigger of ${flow.nodes[0].type}`, async () => {
					const items = (await n8n.executionsOf(flow)).flatMap((run) => output(run, 'Next'));
					return items.length > 0 ? items : undefined;
				});
				assert.deepEqual(
					told.map(({ json }) => json.job_id),
					[rejected.json.job_id],
				);
				assert.equal(told[0].binary?.data.mimeType, 'video/mp4');
			}
		} finally {
			for (const flow of listeners) await n8n.deactivate(flow);
			await server.stop();
		}
	});
}

/** The node with a bar, captions and a visible label. */
function checked(seed: number, account: CredentialReference): NodeSpec {
	const parameters = {
		engine: { __rl: true, mode: 'id', value: 'takes' },
		check: { bar: BAR, sheetField: 'sheet' },
		captions: { script: SCRIPT },
		marking: { label: 'AI generated' },
		options: { seed: String(seed), keepOnServer: true },
		simplify: false,
	};
	return lipsync2(parameters, { credentials: { lipsyncApi: account } });
}

const youTubeAccount = { youTubeOAuth2Api: { id: 'youtube', name: 'YouTube' } };

const youTube: NodeSpec = {
	name: 'YouTube',
	type: 'n8n-nodes-base.youTube',
	typeVersion: 1,
	parameters: {
		resource: 'video',
		operation: 'upload',
		title: 'News',
		regionCode: 'US',
		categoryId: '25',
		options: { privacyStatus: 'private' },
	},
	credentials: youTubeAccount,
};

/** As the shipped example sets YouTube's switch for synthetic media. */
const synthetic: NodeSpec = {
	name: 'Say It Is Synthetic',
	type: 'n8n-nodes-base.httpRequest',
	typeVersion: 4.2,
	parameters: {
		method: 'PUT',
		url: 'https://www.googleapis.com/youtube/v3/videos',
		authentication: 'predefinedCredentialType',
		nodeCredentialType: 'youTubeOAuth2Api',
		sendQuery: true,
		queryParameters: { parameters: [{ name: 'part', value: 'status' }] },
		sendBody: true,
		specifyBody: 'json',
		jsonBody:
			"={{ { id: $json.uploadId, status: { privacyStatus: 'private', containsSyntheticMedia: true } } }}",
		options: {},
	},
	credentials: youTubeAccount,
};

/** The workflow with the node `Rejected` at the output Below the Bar. */
function withRejects(flow: Workflow): Workflow {
	const { main } = flow.connections.Lipsync as { main: object[][] };
	flow.connections.Lipsync = { main: [main[0], [to('Rejected')]] };
	flow.nodes.push({
		id: `${String(flow.id)}-rejected`,
		position: [400, 300],
		...end,
		typeVersion: 1,
		name: 'Rejected',
	});
	return flow;
}
