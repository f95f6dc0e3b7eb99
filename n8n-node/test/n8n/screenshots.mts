/**
 * Takes the pictures of the README from a real n8n in headless Chromium: node screenshots.mjs FOLDER
 *
 * CHROMIUM names the browser, /usr/bin/chromium unless set.
 */
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { chromium, type Page } from 'playwright-core';

import { LipsyncServer, TOKEN } from './lipsync.mjs';
import { N8n, OWNER, type Workflow } from './n8n.mjs';
import { PACKAGE } from './places.mjs';
import { LIPSYNC } from './workflows.mjs';

const folder = process.argv[2];
mkdirSync(folder, { recursive: true });
const home = mkdtempSync(join(tmpdir(), 'lipsync-screenshots-'));
const server = await LipsyncServer.start(join(home, 'lipsync'));
const n8n = await N8n.install(join(home, 'n8n'));
const flows = readdirSync(join(PACKAGE, 'workflows')).map((file) => {
	const flow = JSON.parse(readFileSync(join(PACKAGE, 'workflows', file), 'utf8')) as Workflow;
	for (const node of flow.nodes) if (node.type.endsWith('.lipsync')) node.credentials = LIPSYNC;
	return { number: file[0], flow };
});
const browser = await chromium.launch({
	executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
});
try {
	const credential = {
		id: 'lipsync-good',
		name: 'Lipsync',
		type: 'lipsyncApi',
		data: { baseUrl: server.url, token: TOKEN },
	};
	n8n.importAll(
		[credential],
		flows.map(({ flow }) => flow),
	);
	await n8n.start();
	const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
	await signIn(page);
	for (const { number, flow } of flows) {
		await open(page, flow);
		if (number === '1') await panel(page, join(folder, 'n8n-node.png'));
		await canvas(page, join(folder, `n8n-workflow-${number}.png`));
	}
} finally {
	await browser.close();
	await n8n.stop();
	await server.stop();
	rmSync(home, { recursive: true, force: true });
}

async function signIn(page: Page): Promise<void> {
	await page.goto(`${n8n.url}/signin`);
	await page
		.locator('input[name="emailOrLdapLoginId"], input[type="email"]')
		.first()
		.fill(OWNER.email);
	await page.locator('input[type="password"]').first().fill(OWNER.password);
	await page.keyboard.press('Enter');
	await page.waitForURL(/\/(home|workflows|projects)/);
}

async function open(page: Page, flow: Workflow): Promise<void> {
	await page.goto(`${n8n.url}/workflow/${flow.id}`);
	await page
		.locator('[data-test-id="canvas-node"], .vue-flow__node')
		.first()
		.waitFor({ timeout: 60_000 });
	const later = page.getByRole('button', { name: /skip|got it|close|dismiss/i });
	if (await later.first().isVisible()) await later.first().click();
	await page.keyboard.press('1');
	await page.waitForTimeout(1500);
}

async function panel(page: Page, path: string): Promise<void> {
	await page.locator('[data-test-id="canvas-node"][data-node-name="Lipsync"]').dblclick();
	await page.getByText('Wait for Completion').first().waitFor();
	await page.waitForTimeout(2500);
	await page.screenshot({ path });
	await page.keyboard.press('Escape');
	await page.waitForTimeout(500);
}

/** The nodes without the editor around them. */
async function canvas(page: Page, path: string): Promise<void> {
	await page.screenshot({ path, clip: { x: 42, y: 95, width: 1328, height: 720 } });
}
