/** The published package: n8n's own scan of it, the panel's description, and the example workflows. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

import type { INodeProperties, INodePropertyOptions } from 'n8n-workflow';

import { Lipsync } from '../../nodes/Lipsync/Lipsync.node.js';

const PACKAGE = packageFolder();

interface Flow {
	id: string;
	nodes: Array<{
		name: string;
		type: string;
		parameters: Record<string, unknown>;
		credentials?: object;
	}>;
	connections: Record<string, Record<string, Array<Array<{ node: string }>>>>;
}

const flows = readdirSync(join(PACKAGE, 'workflows')).map((file) => ({
	file,
	flow: JSON.parse(readFileSync(join(PACKAGE, 'workflows', file), 'utf8')) as Flow,
}));

describe('the package', () => {
	it(
		"passes the rules of n8n's community package scan, source and build",
		{ timeout: 240_000 },
		async () => {
			const scanner = '@n8n/scan-community-package/scanner/scanner.mjs';
			const { analyzePackage, SOURCE_FILE_PATTERNS } = (await import(scanner)) as {
				analyzePackage(
					folder: string,
					patterns: string[],
				): Promise<{ passed: boolean; details?: string }>;
				SOURCE_FILE_PATTERNS: string[];
			};
			const source = await analyzePackage(PACKAGE, SOURCE_FILE_PATTERNS);
			assert.ok(source.passed, source.details);
			assert.ok(existsSync(join(PACKAGE, 'dist')), 'build the package first: npm run build');
			const build = await analyzePackage(PACKAGE, ['dist/**/*.js', 'package.json']);
			assert.ok(build.passed, build.details);
		},
	);

	it('needs nothing at run time', () => {
		const manifest = JSON.parse(readFileSync(join(PACKAGE, 'package.json'), 'utf8')) as Record<
			string,
			unknown
		>;
		assert.equal(manifest.dependencies, undefined);
		assert.deepEqual(manifest.peerDependencies, { 'n8n-workflow': '*' });
	});
});

describe('the example workflows', () => {
	for (const { file, flow } of flows) {
		it(`${file} uses only fields and choices that the node has`, () => {
			for (const node of flow.nodes.filter(({ type }) => /\.lipsync(Tool)?$/.test(type))) {
				for (const [name, value] of Object.entries(node.parameters)) {
					const fields = new Lipsync().description.properties.filter((each) => each.name === name);
					assert.ok(fields.length > 0, `${node.name}: there is no field ${name}`);
					const choices = fields.flatMap(fixedChoices);
					if (choices.length > 0)
						assert.ok(choices.includes(value), `${node.name}: ${name}=${String(value)}`);
				}
			}
		});

		it(`${file} connects nodes that are there and carries no credentials`, () => {
			const names = new Set(flow.nodes.map(({ name }) => name));
			for (const [from, outputs] of Object.entries(flow.connections)) {
				for (const { node } of Object.values(outputs).flat(2))
					assert.ok(names.has(from) && names.has(node), `${from} -> ${node}`);
			}
			assert.ok(flow.nodes.every(({ credentials }) => credentials === undefined));
		});
	}

	it('are nine with different ids', () => {
		assert.equal(new Set(flows.map(({ flow }) => flow.id)).size, 9);
	});
});

function fixedChoices(field: INodeProperties): unknown[] {
	if (field.typeOptions?.loadOptionsMethod || field.type !== 'options') return [];
	return (field.options as INodePropertyOptions[]).map(({ value }) => value);
}

function packageFolder(): string {
	let folder = dirname(fileURLToPath(import.meta.url));
	while (!existsSync(join(folder, 'pyproject.toml'))) folder = dirname(folder);
	return join(folder, 'n8n-node');
}
