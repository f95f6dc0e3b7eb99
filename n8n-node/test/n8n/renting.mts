/**
 * The cases of machines that are rented new, at every provider: the order, a video on the new machine, list, status and
 * return. The stand-in of the provider takes the order; then a real Lipsync server starts with the token of the order.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { OFFERS, ProviderProcess } from '../unit/provider.mjs';
import { output } from './execution.mjs';
import { LipsyncServer } from './lipsync.mjs';
import { RENTED, accountAt } from './machines.mjs';
import { LIPSYNC as PROGRAM, eventually } from './places.mjs';
import type { Stage } from './stage.mjs';
import { line, lipsync2, start } from './workflows.mjs';

/** The calls of one provider. Each is "METHOD /path". */
interface Renting {
	list: string;
	/** The list of the account with the machine `id` in it, or empty. */
	listed: (id?: string) => object;
	offers: string;
	offered: object;
	order: string;
	ordered: object;
	giveBack: string;
}

const RENTING: Record<string, Renting> = {
	vast: {
		list: 'GET /instances/',
		listed: (id) => ({ instances: id === undefined ? [] : [{ id, actual_status: 'running' }] }),
		offers: 'POST /bundles/',
		offered: OFFERS.vast_offers,
		order: 'PUT /asks/1/',
		ordered: { success: true, new_contract: 5 },
		giveBack: 'DELETE /instances/5/',
	},
	runpod: {
		list: 'GET /pods',
		listed: (id) => ({ pods: id === undefined ? [] : [{ id, status: 'RUNNING' }] }),
		offers: 'GET /catalog/gpus',
		offered: OFFERS.runpod_gpus,
		order: 'POST /pods',
		ordered: { id: 'pod7', status: 'PROVISIONING' },
		giveBack: 'DELETE /pods/pod7',
	},
	tensordock: {
		list: 'GET /instances',
		listed: (id) => ({
			data: { instances: id === undefined ? [] : [{ id, attributes: { status: 'running' } }] },
		}),
		offers: 'GET /locations',
		offered: OFFERS.tensordock_places,
		order: 'POST /instances',
		ordered: { data: { type: 'virtualmachine', id: 'vm-9' } },
		giveBack: 'DELETE /instances/vm-9',
	},
};

export function rentingCases(stage: () => Stage): void {
	describe('machines that are rented new', () => {
		let api: ProviderProcess;
		before(async () => {
			api = await ProviderProcess.start();
		});
		after(() => api?.stop());

		for (const [provider, calls] of Object.entries(RENTING)) {
			it(`rents the cheapest at ${provider}, makes a video there, lists it and gives it back`, async () => {
				const { n8n, web } = stage();
				const { id, look, answer } = RENTED[provider];
				await api.answers(calls.list, [200, calls.listed()], [200, calls.listed(id)]);
				await api.answers(calls.offers, [200, calls.offered]);
				await api.answers(calls.order, [200, calls.ordered]);
				await api.answers(look, answer(1));
				await api.answers(calls.giveBack, [200, { success: true }]);
				const credentials = { lipsyncMachineApi: await accountAt(stage(), provider, api) };
				const machine = (name: string, parameters: object) =>
					lipsync2({ resource: 'machine', ...parameters }, { name, credentials });
				const rented = (field: string) => `={{ $('Rent').first().json.${field} }}`;
				const machineId = rented('machine_id');
				const machineOptions = { sshKey: 'ssh-ed25519 A' };
				const wish = { startMode: 'rent', gpu: '4090', maxPrice: 1, image: 'me/lipsync:1' };
				const flow = line(
					`rent at ${provider}`,
					start,
					machine('Rent', { operation: 'start', ...wish, machineOptions }),
					lipsync2(
						{
							server: 'input',
							imageInput: 'url',
							imageUrl: `${web.url}/portrait.jpg`,
							audioInput: 'url',
							audioUrl: `${web.url}/speech.wav`,
						},
						{ credentials: undefined },
					),
					machine('List', { operation: 'getAll' }),
					machine('Status', {
						operation: 'getStatus',
						machineId,
						machineToken: rented('token'),
					}),
					machine('Give Back', { operation: 'stop', stopMode: 'destroy', machineId }),
				);
				const execution = await n8n.run(await n8n.save(flow));
				const [method, path] = calls.order.split(' ');
				const order = await eventually('the order', async () =>
					(await api.calls(method, path)).at(-1),
				);
				const token = /LIPSYNC_TOKENS\W+([\w-]{32})/.exec(JSON.stringify(order.body))?.[1] ?? '';
				const server = await LipsyncServer.program(
					[PROGRAM, 'serve', '--engine', 'preview', '--allow-private-urls'],
					stage().file(`rented-${provider}`),
					{ LIPSYNC_TOKENS: token },
				);
				try {
					await api.answers(look, answer(server.port));
					const run = await n8n.ended(execution);
					assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
					const [machineItem] = output(run, 'Rent');
					const { waited_s, missing, price_per_hour, ...rest } = machineItem.json;
					assert.deepEqual(rest, {
						machine_id: id,
						provider,
						state: 'running',
						url: server.url,
						token,
						rented: true,
					});
					assert.ok(Number(price_per_hour) > 0 && Number(waited_s) >= 0);
					const reasons = missing as string[];
					assert.ok(reasons.length > 0 && reasons.every((each) => !each.startsWith('access:')));
					const [video] = output(run, 'Lipsync');
					assert.equal(video.binary?.data.mimeType, 'video/mp4');
					assert.equal(output(run, 'List')[0].json.machine_id, id);
					const status = output(run, 'Status')[0].json;
					assert.deepEqual([status.url, status.ready], [server.url, true]);
					assert.match(String(status.stops), /^never by itself/);
					assert.equal(output(run, 'Give Back')[0].json.given_back, true);
					const [verb, place] = calls.giveBack.split(' ');
					assert.equal((await api.calls(verb, place)).length, 1);
					assert.equal((await api.calls(method, path)).length, 1, 'one machine was ordered');
				} finally {
					await server.stop();
				}
			});
		}
	});
}
