/** Searches for the node in the node list of n8n's real editor, with the words that people would use. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import type { Browser, Page } from 'playwright-core';

import { launch, openPicker, openWorkflow, search, signIn } from './editor.mjs';
import type { N8n } from './n8n.mjs';
import type { Stage } from './stage.mjs';
import { line, lipsync2, start } from './workflows.mjs';

const WORDS = [
	'lip',
	'lipsync',
	'lip sync',
	'avatar',
	'talking',
	'talking head',
	'talking photo',
	'heygen',
	'image to video',
	'portrait',
	'dub',
];
/** The largest number of other nodes above ours. The editor sorts by its own score. */
const MOST_ABOVE = 4;

export function pickerCases(stage: () => Stage, version: string): void {
	describe('the list of nodes in the editor', () => {
		let n8n: N8n;
		let browser: Browser;
		let page: Page;

		before(async () => {
			({ n8n } = stage());
			const flow = await n8n.save(line('picker', start));
			browser = await launch();
			page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
			await signIn(page, n8n);
			await openWorkflow(page, n8n, flow.id);
			await openPicker(page).catch(async (error: unknown) => {
				await picture(page, `picker-${version}`);
				throw error;
			});
		});

		after(async () => {
			await browser?.close();
		});

		it('shows resource, picture and recording first in the panel of the node', async () => {
			const flow = await n8n.save(line('panel', start, lipsync2({}, { credentials: undefined })));
			const own = await browser.newPage({ viewport: { width: 1440, height: 900 } });
			await signIn(own, n8n);
			await openWorkflow(own, n8n, flow.id);
			await own.locator('[data-test-id="canvas-node"][data-node-name="Lipsync"]').dblclick();
			const labels = own.locator(
				'[data-test-id="parameter-item"], [data-test-id="parameter-input"]',
			);
			await labels.first().waitFor();
			await picture(own, `panel-${version}`);
			for (const label of ['Resource', 'Operation', 'Image From', 'Audio From', 'Engine'])
				await own.getByText(label, { exact: true }).first().waitFor({ timeout: 60_000 });
			await own.close();
		});

		for (const words of WORDS) {
			it(`shows Lipsync for "${words}"`, async () => {
				let titles: string[] = [];
				const placeOf = () => titles.findIndex((title) => title.startsWith('Lipsync'));
				// On a slow machine the list still shows the result of the words before.
				for (let tries = 0; tries < 10 && placeOf() < 0; tries++)
					titles = await search(page, words);
				const place = placeOf();
				if (place < 0 && process.env.LIPSYNC_PICTURES)
					await page.screenshot({
						path: join(process.env.LIPSYNC_PICTURES, `picker-${words}.png`),
					});
				assert.ok(place >= 0 && place <= MOST_ABOVE, `it shows: ${titles.join(', ') || 'nothing'}`);
			});
		}
	});
}

/** Save a screenshot to the folder LIPSYNC_PICTURES, which shows why a search failed. */
async function picture(page: Page, name: string): Promise<void> {
	const folder = process.env.LIPSYNC_PICTURES;
	if (folder) await page.screenshot({ path: join(folder, `${name}.png`) });
}
