/** A workflow that publishes a good video, with captions and marks, and stops on a bad one. */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { dirname, join } from 'node:path';
import { it } from 'node:test';

import { LipsyncServer, TOKEN } from './lipsync.mjs';
import { output, type Execution } from './execution.mjs';
import type { Workflow } from './n8n.mjs';
import { LIPSYNC, ROOT, SAMPLES } from './places.mjs';
import { firstSeconds, type Stage } from './stage.mjs';
import { end, fromFiles, lipsync2, to, write } from './workflows.mjs';

const SCRIPT = 'Hello! I used to be a still picture.';
/** Serves the engine `takes`: the frames of the preview, as they are with seed 43, flickering with seed 42. */
const TAKES = [join(dirname(LIPSYNC), 'python'), join(ROOT, 'tests/support/server_process.py')];

export function checkCases(stage: () => Stage): void {
	it('publishes a good video with captions and marks, and stops on a bad one', async () => {
		const { n8n } = stage();
		const file = (name: string) => stage().file(name);
		mkdirSync(file('spoken'), { recursive: true });
		copyFileSync(join(SAMPLES, 'portrait.jpg'), file('spoken/portrait.jpg'));
		const speech = readFileSync(join(SAMPLES, 'speech.wav'));
		writeFileSync(file('spoken/speech.wav'), firstSeconds(speech, 2.5));
		const server = await LipsyncServer.program(TAKES, file('takes'));
		try {
			const saved = await n8n.saveCredential('takes', 'lipsyncApi', {
				baseUrl: server.url,
				token: TOKEN,
			});
			const publish = async (name: string, seed: number): Promise<Execution> =>
				await n8n.tryOut(
					withRejects(
						fromFiles(
							name,
							file('spoken/*.jpg'),
							file('spoken/*.wav'),
							lipsync2(
								{
									engine: { __rl: true, mode: 'id', value: 'takes' },
									check: { bar: 0.6, sheetField: 'sheet' },
									captions: { script: SCRIPT },
									options: { seed: String(seed) },
									simplify: false,
								},
								{ credentials: { lipsyncApi: saved } },
							),
							write(file(`${name}.mp4`)),
						),
					),
				);

			const good = await publish('good', 43);
			assert.equal(good.status, 'success', JSON.stringify(good.data.resultData.error));
			const [item] = output(good, 'Lipsync');
			assert.ok((item.json.quality as { score: number }).score > 0.8);
			const video = readFileSync(file('good.mp4'));
			// Byte for byte the file of the server, so its seal is whole.
			assert.equal(createHash('sha256').update(video).digest('hex'), item.json.sha256);
			for (const mark of ['trainedAlgorithmicMedia', 'c2pa', 'tx3g']) {
				assert.ok(video.includes(mark), `${mark} is in the published file`);
			}
			assert.equal(good.data.resultData.runData.Rejected, undefined);

			const bad = await publish('bad', 42);
			assert.equal(bad.status, 'success', JSON.stringify(bad.data.resultData.error));
			assert.equal(bad.data.resultData.runData.Write, undefined);
			assert.ok(!existsSync(file('bad.mp4')), 'nothing was published');
			const [rejected] = output(bad, 'Rejected');
			const { score, findings } = rejected.json.quality as {
				score: number;
				findings: Array<{ name: string }>;
			};
			assert.ok(score < 0.6);
			assert.ok(findings.some(({ name }) => name === 'flicker'));
			assert.equal(rejected.binary?.sheet.mimeType, 'image/jpeg');
		} finally {
			await server.stop();
		}
	});
}

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
