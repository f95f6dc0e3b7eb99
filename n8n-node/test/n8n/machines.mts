/** The cases of rented machines: the real node and server, with a stand-in for the API of the provider. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { example, sendPair } from './example.mjs';
import { eventually } from './places.mjs';
import { LipsyncServer, TOKEN } from './lipsync.mjs';
import { output } from './execution.mjs';
import { PROVIDER_KEY, ProviderProcess } from '../unit/provider.mjs';
import type { Stage } from './stage.mjs';
import { line, lipsync2, start } from './workflows.mjs';

export interface Rented {
	id: string;
	start: string;
	look: string;
	stop: string;
	isStop: (body: Record<string, unknown> | null) => boolean;
	/** The provider's answer about the machine whose server is reached at `port`. */
	answer: (port: number) => [number, unknown];
}

export const RENTED: Record<string, Rented> = {
	vast: {
		id: '5',
		start: 'PUT /instances/5/',
		look: 'GET /instances/5/',
		stop: 'PUT /instances/5/',
		isStop: (body) => body?.state === 'stopped',
		answer: (port) => {
			const ports = { '5000/tcp': [{ HostPort: String(port) }] };
			const at = { actual_status: 'running', public_ipaddr: '127.0.0.1', ports, dph_total: 0.41 };
			return [200, { instances: at }];
		},
	},
	runpod: {
		id: 'pod7',
		start: 'POST /pods/pod7/action',
		look: 'GET /pods/pod7',
		stop: 'POST /pods/pod7/action',
		isStop: (body) => body?.action === 'stop',
		answer: (port) => {
			const ports = [{ private: 5000, public: port, type: 'tcp', ip: '127.0.0.1' }];
			return [200, { id: 'pod7', status: 'RUNNING', cost: 0.34, runtime: { ports } }];
		},
	},
	tensordock: {
		id: 'vm-9',
		start: 'POST /instances/vm-9/start',
		look: 'GET /instances/vm-9',
		stop: 'POST /instances/vm-9/stop',
		isStop: () => true,
		answer: (port) => {
			const at = { status: 'running', ipAddress: '127.0.0.1', portForwards: { '5000': port } };
			return [200, { data: { id: 'vm-9', attributes: { ...at, rateHourly: 0.41 } } }];
		},
	},
};

/** Runs the example of a rented machine for every provider. The stage's stand-in answers in place of Google Drive. */
export function rentedCases(stage: () => Stage): void {
	describe('rented machines', () => {
		let api: ProviderProcess;
		before(async () => {
			api = await ProviderProcess.start();
		});
		after(() => api?.stop());

		for (const [provider, rented] of Object.entries(RENTED)) {
			it(`runs the example of a rented machine at ${provider}, and stops it although the video fails`, async () => {
				const { id } = rented;
				await api.answers(rented.start, [200, { success: true }]);
				await api.answers(rented.stop, [200, { success: true }]);
				await api.answers(rented.look, rented.answer(1), rented.answer(stage().server.port));
				const { n8n, google } = stage();
				google.forget();
				const account = await accountAt(stage(), provider, api);
				const changes: Array<[string, string]> = [
					['12345678', id],
					['the-token-of-its-server', TOKEN],
				];
				const accounts = { '.googleDrive': { googleApi: { id: 'google', name: 'Google' } } };
				const flow = await n8n.save(example('5-rented-gpu.json', changes, accounts));
				for (const node of flow.nodes) {
					if (node.parameters?.resource === 'machine')
						node.credentials = { lipsyncMachineApi: account };
				}
				await n8n.rest('PATCH', `/workflows/${flow.id}`, {
					nodes: flow.nodes,
					versionId: flow.versionId,
				});
				const [method, path] = rented.stop.split(' ');
				const stops = async () =>
					(await api.calls(method, path)).filter(({ body }) => rented.isStop(body)).length;
				await sendPair(stage(), flow);
				await eventually('the upload', () =>
					google.uploads.find(({ name }) => name === 'me-lipsync.mp4'),
				);
				google.forget();
				await eventually('the machine to stop', async () =>
					(await stops()) === 1 ? true : undefined,
				);
				await sendPair(stage(), flow, Buffer.from('this is no picture'));
				await eventually('the machine to stop', async () =>
					(await stops()) === 2 ? true : undefined,
				);
				const failed = await eventually('the failed execution', async () =>
					(await n8n.executionsOf(flow)).find(({ status }) => status === 'error'),
				);
				assert.match(String(failed.data.resultData.error?.message), /picture|read/i);
				assert.equal(google.uploads.length, 0);
			});
		}
	});
}

/** Shows when a machine stops itself, and keeps it. The server of this machine has LIPSYNC_IDLE_STOP set. */
export function countdownCases(stage: () => Stage): void {
	it('shows when a rented machine stops itself, and keeps it when asked to', async () => {
		const { n8n } = stage();
		const api = await ProviderProcess.start();
		const server = await LipsyncServer.start(
			stage().file('idle'),
			...['--idle-stop', '20', '--idle-stop-command', 'true', '--price-per-hour', '0.41'],
		);
		try {
			const { id, look, answer } = RENTED.vast;
			await api.answers(look, answer(server.port));
			const credentials = { lipsyncMachineApi: await accountAt(stage(), 'vast', api) };
			const machine = (name: string, parameters: object) =>
				lipsync2(
					{ resource: 'machine', machineId: id, machineToken: TOKEN, ...parameters },
					{ name, credentials },
				);
			const run = await n8n.tryOut(
				line(
					'countdown',
					start,
					machine('Before', { operation: 'getStatus' }),
					machine('Keep', { operation: 'keep', keepMinutes: 90 }),
					machine('After', { operation: 'getStatus' }),
				),
			);
			assert.equal(run.status, 'success', JSON.stringify(run.data.resultData.error));
			const [before, keep, after] = ['Before', 'Keep', 'After'].map(
				(name) => output(run, name)[0].json,
			);
			assert.ok(Number(before.stops_in_minutes) > 5 && Number(before.stops_in_minutes) <= 20);
			assert.match(String(before.stops), /^in \d+ minutes unless .* Machine > Keep Running/);
			assert.match(String(before.next_start_costs), /^0\.\d+ USD$/);
			assert.equal(keep.kept_minutes, 90);
			assert.ok(Number(after.stops_in_minutes) > 80, 'the machine stays on for the 90 minutes');
			assert.match(String(after.stops), /somebody keeps it/);
			const told = await server.get<{ kept_s: number }>('/v1/idle-stop');
			assert.ok(told.kept_s > 4_000, 'the server itself has noted the request');
		} finally {
			await server.stop();
			api.stop();
		}
	});
}

export async function accountAt(stage: Stage, provider: string, api: ProviderProcess) {
	return await stage.n8n.saveCredential(provider, 'lipsyncMachineApi', {
		provider,
		apiKey: PROVIDER_KEY,
		apiUrl: api.url,
	});
}
