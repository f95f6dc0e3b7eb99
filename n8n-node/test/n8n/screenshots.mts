/**
 * Takes the pictures of the README from a real n8n in headless Chromium: node screenshots.mjs FOLDER
 *
 * CHROMIUM names the browser, /usr/bin/chromium unless set.
 */
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Page } from 'playwright-core';

import { launch, openPicker, openWorkflow, search, signIn } from './editor.mjs';
import { LipsyncServer, TOKEN } from './lipsync.mjs';
import { N8n, type Workflow } from './n8n.mjs';
import { PACKAGE } from './places.mjs';
import { LIPSYNC } from './workflows.mjs';

const folder = process.argv[2];
mkdirSync(folder, { recursive: true });
const home = mkdtempSync(join(tmpdir(), 'lipsync-screenshots-'));
const server = await LipsyncServer.start(join(home, 'lipsync'));
const n8n = await N8n.install(join(home, 'n8n'));
const flows = readdirSync(join(PACKAGE, 'workflows')).map((file) => {
	const flow = JSON.parse(readFileSync(join(PACKAGE, 'workflows', file), 'utf8')) as Workflow;
	for (const node of flow.nodes) {
		const isMachine = node.parameters?.resource === 'machine';
		if (node.type.endsWith('.lipsync') && !isMachine) node.credentials = LIPSYNC;
	}
	return { number: file[0], flow };
});
const browser = await launch();
try {
	await n8n.start();
	const data = { baseUrl: server.url, token: TOKEN };
	await n8n.addCredentials([{ id: 'lipsync-good', name: 'Lipsync', type: 'lipsyncApi', data }]);
	const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
	await signIn(page, n8n);
	for (const { number, flow } of flows) {
		await openWorkflow(page, n8n, (await n8n.save(flow)).id);
		await page.keyboard.press('1');
		await page.waitForTimeout(1500);
		if (number === '1') await panel(page, join(folder, 'n8n-node.png'));
		await canvas(page, join(folder, `n8n-workflow-${number}.png`));
		if (number !== '1') continue;
		await openPicker(page);
		await search(page, 'lipsync');
		await page.screenshot({ path: join(folder, 'n8n-picker.png') });
		await page.keyboard.press('Escape');
	}
} finally {
	await browser.close();
	await n8n.stop();
	await server.stop();
	rmSync(home, { recursive: true, force: true });
}

async function panel(page: Page, path: string): Promise<void> {
	await page.locator('[data-test-id="canvas-node"][data-node-name="Lipsync"]').dblclick();
	await page.getByText('Put Output File in Field').or(page.getByText('Simplify')).first().waitFor();
	await page.waitForTimeout(2500);
	await page.screenshot({ path });
	await page.keyboard.press('Escape');
	await page.waitForTimeout(500);
}

/** The nodes without the editor around them. */
async function canvas(page: Page, path: string): Promise<void> {
	await page.screenshot({ path, clip: { x: 42, y: 95, width: 1328, height: 720 } });
}
