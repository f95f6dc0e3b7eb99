/** The case of n8n's store of binaries: file system or database, in n8n itself or in a worker. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { it } from 'node:test';

import { output } from './execution.mjs';
import { GENERATED, sealOf } from './seal.mjs';
import type { Stage } from './stage.mjs';
import { fromFiles, lipsync2, write } from './workflows.mjs';

/** stored: how n8n names the place of a stored binary. */
export function storeCases(stage: () => Stage, stored: RegExp): void {
	it('reads both files from the store of n8n, and writes the video there byte for byte, with a valid seal', async () => {
		const { n8n, server } = stage();
		const made = stage().file('stored.mp4');
		const captions = { script: 'Hello there.', language: 'en', srtField: 'captions' };
		const node = lipsync2({ captions, options: { keepOnServer: true } });
		const pictures = stage().file('one/*.jpg');
		const flow = fromFiles('stored', pictures, stage().file('one/*.wav'), node, write(made));
		const run = await n8n.tryOut(flow);
		assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
		const [item] = output(run, 'Lipsync');
		const video = await server.video(String(item.json.job_id));
		assert.equal(sha256(readFileSync(made)), sha256(video));
		assert.equal(sha256(video), sha256(await n8n.binary(item.binary?.data)));
		assert.deepEqual(sealOf(made), GENERATED);
		assert.match((await n8n.binary(item.binary?.captions)).toString(), /Hello there\./);
		const { id, data } = item.binary?.data ?? { data: '' };
		assert.match(id ?? data, stored);
	});
}

function sha256(bytes: Buffer): string {
	return createHash('sha256').update(bytes).digest('hex');
}
