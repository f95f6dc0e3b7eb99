/** The cases of links, captions and AI agents: everything that shows a video to people who have no token. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { it } from 'node:test';

import { ModelStandIn } from './model.mjs';
import { output, type Item } from './execution.mjs';
import type { NodeSpec, Workflow } from './n8n.mjs';
import type { Stage } from './stage.mjs';
import { LIPSYNC, fromFiles, line, lipsync2, start, to } from './workflows.mjs';

const WORDS = 'Hello, this is a talking picture.';

export function sharingCases(stage: () => Stage): void {
	const generate = (id: string, parameters: object, ...rest: NodeSpec[]): Workflow =>
		fromFiles(
			id,
			stage().file('one/*.jpg'),
			stage().file('one/*.wav'),
			lipsync2({ ...parameters }),
			...rest,
		);

	it('makes a link that shows the video without the token, for the time that is set', async () => {
		const { n8n, server } = stage();
		const link = lipsync2(
			{
				operation: 'getLink',
				jobId: { __rl: true, mode: 'id', value: '={{ $json.job_id }}' },
				expiresAfterHours: 1,
			},
			{ name: 'Link' },
		);
		const soon = lipsync2({ ...link.parameters, expiresAfterHours: 0.01 }, { name: 'Short Link' });
		const keep = { options: { keepOnServer: true } };
		const run = await n8n.tryOut(generate('link', keep, link, soon));
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const [video] = output(run, 'Lipsync');
		const [lasting] = output(run, 'Link');
		const [short] = output(run, 'Short Link');
		assert.ok(String(lasting.json.link).startsWith(server.url), String(lasting.json.link));
		const answer = await fetch(String(lasting.json.link));
		assert.equal(answer.status, 200);
		assert.equal((await answer.arrayBuffer()).byteLength, video.json.size_bytes);
		assert.equal(answer.headers.get('content-type'), 'video/mp4');
		const leftMs = new Date(String(lasting.json.link_expires_at)).getTime() - Date.now();
		assert.ok(leftMs > 2_700_000 && leftMs <= 3_600_000, `${leftMs} ms are left`);
		// The tests of the server wait for the end of a link.
		const shorterMs =
			new Date(String(lasting.json.link_expires_at)).getTime() -
			new Date(String(short.json.link_expires_at)).getTime();
		assert.ok(shorterMs > 3_300_000, `the short link ends ${shorterMs} ms before the other`);
		const good = String(lasting.json.link);
		const id = String(video.json.job_id);
		const other = await server.submit(
			readFileSync(stage().file('one/portrait.jpg')),
			readFileSync(stage().file('one/speech.wav')),
		);
		const last = good.at(-1) === '0' ? '1' : '0';
		for (const forged of [
			good.replace(/expires=\d+/, 'expires=99999999999'),
			good.replace(id, other),
			good.slice(0, -1) + last,
			good.split('?')[0],
		])
			assert.equal((await fetch(forged)).status, 403, forged);
	});

	it('shows captions of the spoken words and returns them as an SRT file', async () => {
		const { n8n, server } = stage();
		const captions = { script: WORDS, language: 'en', show: 'track', srtField: 'captions' };
		const run = await n8n.tryOut(
			generate('captions', { captions, options: { keepOnServer: true } }),
		);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const [item] = output(run, 'Lipsync');
		assert.equal(item.binary?.captions.fileName, 'portrait-lipsync.srt');
		assert.equal(item.binary?.captions.mimeType, 'application/x-subrip');
		const srt = await n8n.binary(item.binary?.captions);
		assert.match(srt.toString(), /^1\r?\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\r?\n/);
		assert.equal(wordsOf(srt.toString()), WORDS);
		const video = await server.video(String(item.json.job_id));
		assert.ok(video.includes('tx3g'), 'the video has a text track');
		const none = await n8n.tryOut(generate('no captions', { options: { keepOnServer: true } }));
		const [plain] = output(none, 'Lipsync');
		assert.equal(plain.binary?.captions, undefined);
		assert.ok(!(await server.video(String(plain.json.job_id))).includes('tx3g'));
	});

	it('is a tool of an AI agent: URLs in, a few words and a link out that needs no token', async () => {
		const { n8n, web } = stage();
		const model = await ModelStandIn.start({
			Image_URL: `${web.url}/portrait.jpg`,
			Recording_URL: `${web.url}/speech.wav`,
		});
		try {
			const account = await n8n.saveCredential('model', 'openAiApi', {
				apiKey: 'none',
				url: model.url,
			});
			const run = await n8n.tryOut(agentWorkflow(account));
			assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
			assert.deepEqual(model.offered.sort(), ['Image_URL', 'Recording_URL']);
			const [said] = model.answers;
			assert.ok(said.length < 600, `the tool's text has ${said.length} characters: ${said}`);
			const link = /"link":\s*"([^"]+)"/.exec(said)?.[1] ?? '';
			const answer = await fetch(link);
			assert.equal(answer.status, 200, said);
			assert.equal(answer.headers.get('content-type'), 'video/mp4');
			assert.match(JSON.stringify(output(run, 'Agent')[0].json), /Here is your video: .*shared/s);
			const tool = run.data.resultData.runData['Lipsync']?.[0]?.data as unknown as {
				ai_tool?: Array<Item[] | null>;
			};
			const binaries = (tool?.ai_tool?.[0] ?? []).map(({ binary }) => binary);
			assert.ok(binaries.length > 0 && binaries.every((each) => each === undefined));
		} finally {
			model.stop();
		}
	});
}

/** The case of captions that the server draws. The node only passes the style on, so one version of n8n is enough. */
export function drawnCases(stage: () => Stage): void {
	it('draws captions into the picture in the chosen style', async () => {
		const { n8n, server } = stage();
		const captions = { script: WORDS, language: 'en', show: 'box' };
		const run = await n8n.tryOut(
			fromFiles(
				'drawn',
				stage().file('one/*.jpg'),
				stage().file('one/*.wav'),
				lipsync2({ captions, options: { keepOnServer: true } }),
			),
		);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const [item] = output(run, 'Lipsync');
		const video = await server.video(String(item.json.job_id));
		assert.ok(!video.includes('tx3g'), 'drawn captions need no text track');
		const srt = await (
			await server.fetch(`/v1/jobs/${String(item.json.job_id)}/captions.srt`)
		).text();
		assert.equal(wordsOf(srt), WORDS);
	});
}

/** Agent with a language model and the Lipsync tool, as an editor saves it. */
function agentWorkflow(account: { id: string; name: string }): Workflow {
	const agent: NodeSpec = {
		name: 'Agent',
		type: '@n8n/n8n-nodes-langchain.agent',
		typeVersion: 1.9,
		parameters: { promptType: 'define', text: 'Make a video of my picture', options: {} },
	};
	const flow = line('agent', start, agent);
	const model: NodeSpec = {
		id: 'agent-model',
		name: 'Model',
		type: '@n8n/n8n-nodes-langchain.lmChatOpenAi',
		typeVersion: 1.2,
		position: [0, 200],
		parameters: { model: { __rl: true, mode: 'id', value: 'stand-in' }, options: {} },
		credentials: { openAiApi: account },
	};
	const ask = (name: string, what: string) => `={{ $fromAI('${name}', \`${what}\`, 'string') }}`;
	const tool: NodeSpec = {
		id: 'agent-tool',
		name: 'Lipsync',
		type: 'n8n-nodes-lipsync.lipsyncTool',
		typeVersion: 2,
		position: [200, 200],
		parameters: {
			resource: 'video',
			operation: 'generate',
			imageUrl: ask('Image_URL', 'Address of the picture'),
			audioUrl: ask('Recording_URL', 'Address of the recording'),
			options: {},
		},
		credentials: LIPSYNC,
	};
	flow.nodes.push(model, tool);
	flow.connections.Model = {
		ai_languageModel: [[{ ...to('Agent'), type: 'ai_languageModel' }]],
	};
	flow.connections.Lipsync = { ai_tool: [[{ ...to('Agent'), type: 'ai_tool' }]] };
	return flow;
}

/** The words of an SRT file, without numbers and times. */
function wordsOf(srt: string): string {
	return srt
		.split(/\r?\n/)
		.filter((row) => row !== '' && !/^\d+$/.test(row) && !row.includes('-->'))
		.join(' ');
}
