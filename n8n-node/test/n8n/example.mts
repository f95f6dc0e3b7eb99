/** The shipped workflows in a test: with the test's credentials, and with addresses and paths of this machine. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import type { N8n, NodeSpec, Workflow } from './n8n.mjs';
import { PACKAGE } from './places.mjs';
import type { Stage } from './stage.mjs';
import { LIPSYNC } from './workflows.mjs';

/** Credentials other than Lipsync's, by the last part of the node's type. */
export type Accounts = Record<string, NodeSpec['credentials']>;

export function example(
	file: string,
	changes: Array<[string, string]> = [],
	accounts: Accounts = {},
): Workflow {
	let text = readFileSync(join(PACKAGE, 'workflows', file), 'utf8');
	for (const [from, become] of changes) {
		assert.ok(text.includes(from), `${file} has ${from}`);
		text = text.replaceAll(from, become);
	}
	const flow = JSON.parse(text) as Workflow;
	for (const node of flow.nodes) {
		if (/\.lipsync(Tool)?$/.test(node.type) && node.parameters?.resource !== 'machine')
			node.credentials = LIPSYNC;
		for (const [end, account] of Object.entries(accounts)) {
			if (node.type.endsWith(end)) node.credentials = account;
		}
		if (node.type.endsWith('.googleDrive'))
			Object.assign(node.parameters ?? {}, { authentication: 'serviceAccount' });
	}
	return flow;
}

export interface FormFile {
	name: string;
	type: string;
	bytes: Buffer;
}

/** Press Execute, fill the form of the first node and send it. Returns the address of the next page. */
export async function sendForm(n8n: N8n, flow: Workflow, ...files: FormFile[]): Promise<string> {
	const listening = await n8n.rest<{ waitingForWebhook?: boolean }>(
		'POST',
		`/workflows/${flow.id}/run`,
		{ triggerToStartFrom: { name: 'Form' }, workflowData: { ...flow, pinData: {} } },
	);
	assert.equal(listening.waitingForWebhook, true);
	const inputs = new FormData();
	files.forEach(({ name, type, bytes }, i) =>
		inputs.set(`field-${i}`, new Blob([new Uint8Array(bytes)], { type }), name),
	);
	const form = flow.nodes.find(({ name }) => name === 'Form');
	const address = `${n8n.url}/form-test/${String(form?.webhookId)}`;
	const answer = await fetch(address, { method: 'POST', body: inputs });
	const text = await answer.text();
	assert.ok(answer.ok, text);
	return (JSON.parse(text) as { formWaitingUrl?: string }).formWaitingUrl ?? '';
}

/** Send the form of an example with the stage's portrait, or another picture, and its recording. */
export async function sendPair(stage: Stage, flow: Workflow, picture?: Buffer): Promise<string> {
	const portrait = picture ?? readFileSync(stage.file('one/portrait.jpg'));
	const recording = readFileSync(stage.file('one/speech.wav'));
	return await sendForm(
		stage.n8n,
		flow,
		{ name: 'me.jpg', type: 'image/jpeg', bytes: portrait },
		{ name: 'me.wav', type: 'audio/wav', bytes: recording },
	);
}
