/** n8n's editor in headless Chromium, for tests and for the pictures of the README. */
import { chromium, type Browser, type Page } from 'playwright-core';

import { OWNER, type N8n } from './n8n.mjs';
import { CHROMIUM } from './places.mjs';

export async function launch(): Promise<Browser> {
	return await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
}

export async function signIn(page: Page, n8n: N8n): Promise<void> {
	await page.goto(`${n8n.url}/signin`);
	await page
		.locator('input[name="emailOrLdapLoginId"], input[type="email"]')
		.first()
		.fill(OWNER.email);
	await page.locator('input[type="password"]').first().fill(OWNER.password);
	await page.keyboard.press('Enter');
	await page.waitForURL(/\/(home|workflows|projects)/);
}

export async function openWorkflow(page: Page, n8n: N8n, id: string): Promise<void> {
	await page.goto(`${n8n.url}/workflow/${id}`);
	await page
		.locator('[data-test-id="canvas-node"], .vue-flow__node')
		.first()
		.waitFor({ timeout: 60_000 });
	await closeOffers(page);
}

/** Open the list of nodes for a further step of a workflow that is open. */
export async function openPicker(page: Page): Promise<void> {
	const bar = page.locator('[data-test-id="node-creator-search-bar"]');
	const plus = page.locator(
		'[data-test-id="node-creator-plus-button"], [data-test-id="canvas-handle-plus"]',
	);
	await page.keyboard.press('Escape');
	await plus.first().click({ timeout: 30_000 });
	await bar.waitFor({ timeout: 30_000 });
}

/** The titles that the list shows for `words`, in their order. */
export async function search(page: Page, words: string): Promise<string[]> {
	const bar = page.locator('[data-test-id="node-creator-search-bar"]');
	await bar.fill('');
	await bar.fill(words);
	const list = page.locator(
		'[data-test-id="item-iterator-item"], [data-test-id="node-creator-no-results"]',
	);
	await page.waitForTimeout(400);
	await list
		.first()
		.waitFor({ timeout: 15_000 })
		.catch(() => undefined);
	const titles = await page
		.locator(
			'[data-test-id="node-creator-item-name"], [data-test-id="node-creator-node-item"] [class*="name"]',
		)
		.allTextContents();
	return titles.map((title) => title.trim());
}

async function closeOffers(page: Page): Promise<void> {
	const later = page.getByRole('button', { name: /skip|got it|close|dismiss/i });
	if (await later.first().isVisible()) await later.first().click();
}
