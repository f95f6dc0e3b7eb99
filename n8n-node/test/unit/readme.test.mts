/** The README of the node names only fields, choices and operations that the panel has. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import { LipsyncApi } from '../../credentials/LipsyncApi.credentials.js';
import { LipsyncMachineApi } from '../../credentials/LipsyncMachineApi.credentials.js';
import { Lipsync } from '../../nodes/Lipsync/Lipsync.node.js';
import { LipsyncTrigger } from '../../nodes/Lipsync/LipsyncTrigger.node.js';
import { LipsyncWebhookTrigger } from '../../nodes/Lipsync/LipsyncWebhookTrigger.node.js';

/** Words of n8n itself in italics: fields of every node, of its HTTP Request node, states and messages. */
const OF_N8N = new Set([
	'Connection tested successfully',
	"Couldn't connect with these settings",
	'Continue',
	'Continue (using error output)',
	'Crashed',
	'File',
	'Form Data',
	'Form-Data',
	'Generic Credential Type',
	'Header Auth',
	'No license found for S3 storage',
	'On Error',
	'On Error: Continue',
	'Retry On Fail',
	'S3 binary data storage requires a valid license',
	'Stop Workflow',
	'Waiting',
	'n8n Binary File',
]);
/** Italics that are no name of a field: search words, and a sentence of the output. */
const OTHER = /^(avatar|lipsync|talking photo|in 4 minutes unless .*)$/;

describe('the README of the node', () => {
	it('names only fields, choices and operations that the panel has', () => {
		const names = new Set(['Below the Bar']);
		for (const part of [
			new Lipsync().description,
			new LipsyncTrigger().description,
			new LipsyncWebhookTrigger().description,
			new LipsyncApi(),
			new LipsyncMachineApi(),
		])
			collect(part, names);
		const text = readFileSync(readme(), 'utf8').replaceAll(/```.*?```/gs, '');
		const italics = [...text.matchAll(/(?<![*\w])\*([^*\s][^*]*)\*(?![*\w])/g)].map(([, words]) =>
			words.replaceAll(/\s+/g, ' '),
		);
		assert.ok(italics.length > 40, `only ${italics.length} names were found`);
		const unknown = italics
			.filter((words) => !OF_N8N.has(words) && !OTHER.test(words))
			.filter((words) => !words.split(' > ').every((part) => names.has(part)));
		assert.deepEqual(unknown, []);
	});
});

/** All display names below `value`. A unit in brackets, such as "(Minutes)", may be left out in prose. */
function collect(value: unknown, names: Set<string>): void {
	if (typeof value !== 'object' || value === null) return;
	for (const [key, content] of Object.entries(value)) {
		if ((key === 'displayName' || key === 'name') && typeof content === 'string') {
			names.add(content);
			names.add(content.replace(/ \([^)]*\)$/, ''));
		} else collect(content, names);
	}
}

function readme(): string {
	let folder = dirname(fileURLToPath(import.meta.url));
	while (!existsSync(join(folder, 'n8n-node', 'README.md'))) folder = dirname(folder);
	return join(folder, 'n8n-node', 'README.md');
}
