/** Installs the packed node into the home folder of an n8n, laid out as n8n's community installer does. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { PACKAGE } from './places.mjs';

export function installPackage(home: string): void {
	const nodes = join(home, '.n8n', 'nodes');
	const target = join(nodes, 'node_modules', 'n8n-nodes-lipsync');
	mkdirSync(target, { recursive: true });
	const packed = execFileSync('npm', ['pack', '--json', '--pack-destination', home], {
		cwd: PACKAGE,
		encoding: 'utf8',
		stdio: ['ignore', 'pipe', 'ignore'],
	});
	const [{ filename, version }] = JSON.parse(packed) as Array<{
		filename: string;
		version: string;
	}>;
	execFileSync('tar', ['-xzf', join(home, filename), '-C', target, '--strip-components=1']);
	const manifestFile = join(target, 'package.json');
	const manifest = JSON.parse(readFileSync(manifestFile, 'utf8')) as Record<string, unknown>;
	for (const kind of ['devDependencies', 'peerDependencies', 'optionalDependencies'])
		delete manifest[kind];
	// n8n's installer would run `npm install` in this folder. With no dependencies there is nothing to install.
	assert.equal(manifest.dependencies, undefined, 'the package has no dependencies');
	writeFileSync(manifestFile, JSON.stringify(manifest, null, 2));
	writeFileSync(
		join(nodes, 'package.json'),
		JSON.stringify({
			name: 'installed-nodes',
			private: true,
			dependencies: { 'n8n-nodes-lipsync': version },
		}),
	);
}
