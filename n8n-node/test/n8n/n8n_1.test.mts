/** The packed node inside the newest n8n 1.x: everything that must not depend on the version. */
import { after, before, describe } from 'node:test';

import { everyCase } from './cases.mjs';
import { N8N_1 } from './places.mjs';
import { Stage } from './stage.mjs';

describe('the node in n8n 1.x', { timeout: 3_600_000 }, () => {
	let stage: Stage;

	before(async () => {
		stage = await Stage.withGoogle(N8N_1, { N8N_DEFAULT_BINARY_DATA_MODE: 'filesystem' });
		await stage.open();
	});

	after(async () => await stage?.clear());

	everyCase(() => stage, '1.x');
});
