/** The lists of engines and of their options come from the server, whatever engines it has. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import type { ILoadOptionsFunctions } from 'n8n-workflow';

import {
	getEngineOptions,
	getEngines,
	searchEngines,
} from '../../nodes/Lipsync/methods/engines.js';
import { makeContext } from './context.mjs';
import { json, serve } from './scripted.mjs';

/** The answer of a server on which the example of docs/add-an-engine.md is installed. */
const INFO = {
	default: 'preview',
	engines: [
		{ name: 'preview', title: 'Preview', available: true, reason: 'on the CPU' },
		{
			name: 'wobble',
			title: 'Rocks the picture',
			available: true,
			reason: '',
			options_schema: {
				properties: {
					seed: { type: 'integer', minimum: 0, default: 42 },
					swing: {
						type: 'integer',
						minimum: 0,
						maximum: 64,
						default: 8,
						description: 'Pixels that the picture moves at full loudness.',
					},
				},
			},
		},
	],
};

function panel(baseUrl: string, engine: string): ILoadOptionsFunctions {
	const context = makeContext({ baseUrl });
	return Object.assign(context, {
		getCurrentNodeParameter: () => ({ mode: 'list', value: engine }),
	}) as unknown as ILoadOptionsFunctions;
}

describe('an engine of another package', () => {
	it('is in both lists of engines, and its own options are listed with their descriptions', async (t) => {
		const { url } = await serve(t, (asked, response) =>
			json(response, asked.path === '/v1/engines' ? 200 : 404, INFO),
		);
		const chosen = panel(url, 'wobble');
		const values = (await getEngines.call(chosen)).map(({ value }) => value);
		assert.deepEqual(values, ['auto', 'preview', 'wobble']);
		const { results } = await searchEngines.call(chosen, 'rocks');
		assert.deepEqual(
			results.map(({ name, value }) => [name, value]),
			[['Rocks the picture', 'wobble']],
		);
		assert.deepEqual(await getEngineOptions.call(chosen), [
			{
				name: 'swing',
				value: 'swing',
				description: 'Pixels that the picture moves at full loudness. 0 to 64. Default: 8.',
			},
		]);
	});
});
