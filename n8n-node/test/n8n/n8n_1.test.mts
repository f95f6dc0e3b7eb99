/** The packed node inside the newest n8n 1.x: everything that must not depend on the version. */
import { after, before, describe } from 'node:test';

import { checkCases } from './checking.mjs';
import { essentialCases } from './essential.mjs';
import { countdownCases } from './machines.mjs';
import { parkedCases } from './parked.mjs';
import { sharingCases } from './sharing.mjs';
import { N8N_1 } from './places.mjs';
import { Stage } from './stage.mjs';
import { webhookCases } from './webhook.mjs';

describe('the node in n8n 1.x', { timeout: 900_000 }, () => {
	let stage: Stage;

	before(async () => {
		stage = await Stage.set(N8N_1, { N8N_DEFAULT_BINARY_DATA_MODE: 'filesystem' });
		stage.n8n.importAll(stage.credentials, []);
		await stage.n8n.start();
	});

	after(async () => await stage?.clear());

	essentialCases(() => stage);
	checkCases(() => stage);
	sharingCases(() => stage);
	webhookCases(() => stage);
	parkedCases(() => stage);
	countdownCases(() => stage);
});
