/**
 * Machine > Start, Stop, Get Status and Get Many over HTTP, against a stand-in for the providers' APIs. The server's own
 * adapters are tested against the same recorded answers.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it, type TestContext } from 'node:test';

import type { NodeOperationError } from 'n8n-workflow';

import { execute, makeContext, type Context } from './context.mjs';
import { publishedImage } from '../../nodes/Lipsync/machines/published.js';
import { chooseSoftware } from '../../nodes/Lipsync/machines/software.js';
import { cloudInit } from '../../nodes/Lipsync/machines/tensordock.js';
import { onstart } from '../../nodes/Lipsync/machines/vast.js';
import { OFFERS, PROVIDER_KEY, ProviderProcess, STOCK } from './provider.mjs';
import { json, problem, serve, type Scripted } from './scripted.mjs';

type Parameters = Record<string, unknown>;

const READY = { ready: true, stage: 'ready', fraction: 1, detail: 'preview is loaded.' };
const IDLE = {
	enabled: true,
	after_minutes: 5,
	in_s: null as number | null,
	kept_s: 0,
	price_per_hour: 0.41,
	start_cost: { amount: 0.082, currency: 'USD', minutes_until_ready: 7, minutes_until_stop: 5 },
};
const ENGINES = {
	engines: [
		{ name: 'preview', available: true, reason: '' },
		{ name: 'infinitetalk', available: false, reason: 'no GPU' },
	],
};

describe('rented machines', () => {
	let api: ProviderProcess;

	before(async () => {
		api = await ProviderProcess.start();
	});

	after(() => api.stop());

	const at = (provider: string, parameters: Parameters, more: Parameters = {}): Context =>
		makeContext({
			account: { provider, apiKey: PROVIDER_KEY, apiUrl: api.url },
			parameters: { resource: 'machine', ...parameters },
			...more,
		});
	const vastAt = (port: number, more: object = {}): [number, unknown] => {
		const ports = { '5000/tcp': [{ HostPort: String(port) }] };
		const instance = {
			actual_status: 'running',
			public_ipaddr: '127.0.0.1',
			ports,
			dph_total: 0.41,
		};
		return [200, { instances: { ...instance, ...more } }];
	};

	it('starts a stopped machine, follows the port that changes, and returns address, token and price', async (t) => {
		const server = await lipsync(t);
		await api.answers('PUT /instances/5/', [200, { success: true }]);
		const stopped = { actual_status: 'exited', intended_status: 'running' };
		await api.answers(
			'GET /instances/5/',
			[200, { instances: { ...stopped, public_ipaddr: '127.0.0.1', ports: {} } }],
			vastAt(portOf(server)),
		);
		const parameters = {
			operation: 'start',
			startMode: 'existing',
			machineId: '5',
			machineToken: 'tok',
		};
		const [item] = await execute(at('vast', parameters));
		assert.deepEqual((await api.calls('PUT', '/instances/5/')).at(-1)?.body, { state: 'running' });
		const { waited_s, ...rest } = item.json;
		assert.ok(Number(waited_s) >= 0);
		assert.deepEqual(rest, {
			machine_id: '5',
			provider: 'vast',
			state: 'running',
			url: server.url,
			token: 'tok',
			price_per_hour: 0.41,
			rented: false,
			missing: ['infinitetalk: no GPU'],
		});
		const ready = server.to('GET', /readyz/);
		assert.ok(ready.every(({ headers }) => headers.authorization === undefined));
	});

	it('rents the cheapest machine that fits, once, although the node is tried again', async (t) => {
		const server = await lipsync(t);
		await api.answers('GET /instances/', [200, { instances: [] }]);
		await api.answers('POST /bundles/', [200, OFFERS.vast_offers]);
		await api.answers('PUT /asks/1/', [200, { success: true, new_contract: 7 }]);
		await api.answers('GET /instances/7/', vastAt(portOf(server)));
		const parameters = {
			operation: 'start',
			startMode: 'rent',
			gpu: '4090',
			maxPrice: 0.45,
			image: 'me/lipsync:1',
		};
		const [first] = await execute(at('vast', parameters));
		const created = (await api.calls('PUT', '/asks/1/')).at(-1)?.body as Record<string, unknown>;
		const environment = created.env as Record<string, string>;
		assert.equal(created.image, 'me/lipsync:1');
		assert.equal(environment['-p 5000:5000'], '1');
		assert.equal(environment.LIPSYNC_TOKENS, first.json.token);
		assert.equal(environment.LIPSYNC_IDLE_STOP, '5');
		assert.equal(environment.LIPSYNC_PROFILE, 'infinitetalk-int8-fast');
		assert.equal(environment.LIPSYNC_PRICE_PER_HOUR, '0.4');
		assert.equal(created.runtype, 'args');
		await api.answers('GET /instances/', [
			200,
			{ instances: [{ id: 7, label: created.label, actual_status: 'running' }] },
		]);
		const [second] = await execute(at('vast', parameters));
		assert.equal(second.json.machine_id, '7');
		assert.equal(second.json.token, first.json.token);
		assert.equal((await api.calls('PUT', '/asks/1/')).length, 1, 'the second try rents nothing');
	});

	it('sends the same scripts as `lipsync cloud up`', () => {
		const { image, script } = chooseSoftware('', STOCK.source);
		assert.deepEqual({ image, script }, { image: STOCK.image, script: STOCK.script });
		assert.equal(onstart(script), STOCK.onstart);
		const order = {
			environment: STOCK.environment,
			diskGb: 70,
			label: 'a',
			sshKey: 'ssh-ed25519 A',
		};
		assert.deepEqual(
			JSON.parse(cloudInit({ ...order, image, script }).slice(13)),
			JSON.parse(STOCK.cloud_init.slice(13)),
		);
		assert.deepEqual(
			JSON.parse(cloudInit({ ...order, image: STOCK.own_image, script: '' }).slice(13)),
			JSON.parse(STOCK.cloud_init_of_an_image.slice(13)),
		);
	});

	it('starts the published image of a release, and names the missing field in a checkout', async () => {
		const published = publishedImage('Some-Body/LipSync:1.2.3');
		assert.equal(published, 'ghcr.io/some-body/lipsync:1.2.3-gpu');
		assert.deepEqual(chooseSoftware('', '', published), { image: published, script: '' });
		assert.throws(() => chooseSoftware('me/l:1', STOCK.source), /exclude each other/);
		for (const source of ['http://example.org/a.whl', 'https://example.org/a.exe', 'a.whl']) {
			assert.throws(() => chooseSoftware('', source), /Source must be an https address/);
		}
		await api.answers('GET /instances/', [200, { instances: [] }]);
		const nothing = { operation: 'start', startMode: 'rent', gpu: '4090', maxPrice: 1 };
		await assert.rejects(
			execute(at('vast', nothing, { executionId: '97' })),
			(error: NodeOperationError) => {
				assert.match(error.message, /no release/);
				assert.match(String(error.description), /into Source, or an image of yours/);
				return true;
			},
		);
	});

	it('installs a source into a stock image at Vast.ai and RunPod', async (t) => {
		const server = await lipsync(t);
		await api.answers('GET /instances/', [200, { instances: [] }]);
		await api.answers('POST /bundles/', [200, OFFERS.vast_offers]);
		await api.answers('PUT /asks/1/', [200, { success: true, new_contract: 8 }]);
		await api.answers('GET /instances/8/', vastAt(portOf(server)));
		const rent = { operation: 'start', startMode: 'rent', gpu: '4090', maxPrice: 1 };
		const parameters = { ...rent, source: STOCK.source };
		await execute(at('vast', parameters, { executionId: '96' }));
		const sent = (await api.calls('PUT', '/asks/1/')).at(-1)?.body as Parameters;
		assert.deepEqual([sent.image, sent.runtype, sent.onstart], [STOCK.image, 'ssh', STOCK.onstart]);
		await api.answers('GET /pods', [200, { pods: [] }]);
		await api.answers('GET /catalog/gpus', [200, OFFERS.runpod_gpus]);
		await api.answers('POST /pods', [201, { id: 'pod8', status: 'PROVISIONING' }]);
		await api.answers('GET /pods/pod8', [200, { id: 'pod8', status: 'ERROR' }]);
		await api.answers('DELETE /pods/pod8', [204, '']);
		await assert.rejects(execute(at('runpod', parameters, { executionId: '96' })), /is failed/);
		const pod = (await api.calls('POST', '/pods')).at(-1)?.body as Parameters;
		assert.equal(pod.args, `bash -c 'eval "$START_SCRIPT"'`);
		assert.equal((pod.env as Record<string, string>).START_SCRIPT, STOCK.script);
	});

	it('rents nothing above the price that is allowed', async () => {
		await api.answers('GET /instances/', [200, { instances: [] }]);
		await api.answers('POST /bundles/', [200, OFFERS.vast_offers]);
		const parameters = {
			operation: 'start',
			startMode: 'rent',
			gpu: '4090',
			maxPrice: 0.3,
			image: 'a',
		};
		const before = (await api.calls('PUT', '/asks/1/')).length;
		await assert.rejects(
			execute(at('vast', parameters, { executionId: '99' })),
			/no 4090 with 23 GB for \$0\.3 an hour now; the cheapest is \$0\.400/,
		);
		assert.equal((await api.calls('PUT', '/asks/1/')).length, before);
	});

	it('returns a machine to the provider that does not become ready, and reports that', async (t) => {
		const server = await serve(t, (_asked, response) =>
			json(response, 503, { ...READY, ready: false, stage: 'failed', detail: 'The disk is full.' }),
		);
		await api.answers('PUT /instances/5/', [200, { success: true }]);
		await api.answers('GET /instances/5/', vastAt(portOf(server)));
		const parameters = { operation: 'start', startMode: 'existing', machineId: '5' };
		await assert.rejects(execute(at('vast', parameters)), (error: NodeOperationError) => {
			assert.match(error.message, /cannot start: The disk is full/);
			assert.match(String(error.description), /Machine 5 was stopped/);
			return true;
		});
		assert.deepEqual((await api.calls('PUT', '/instances/5/')).at(-1)?.body, { state: 'stopped' });
	});

	it('stops the machine when the execution is stopped while it waits', async (t) => {
		const stop = new AbortController();
		const server = await serve(t, (_asked, response) => {
			json(response, 503, { ...READY, ready: false, stage: 'loading' });
			stop.abort();
		});
		await api.answers('PUT /instances/5/', [200, { success: true }]);
		await api.answers('GET /instances/5/', vastAt(portOf(server)));
		const parameters = { operation: 'start', startMode: 'existing', machineId: '5' };
		await assert.rejects(execute(at('vast', parameters, { signal: stop.signal })), /canceled/);
		assert.deepEqual((await api.calls('PUT', '/instances/5/')).at(-1)?.body, { state: 'stopped' });
	});

	it('sends RunPod the calls of its API', async () => {
		await api.answers('GET /pods', [200, { pods: [] }]);
		await api.answers('GET /catalog/gpus', [200, OFFERS.runpod_gpus]);
		await api.answers('POST /pods', [201, { id: 'pod7', status: 'PROVISIONING' }]);
		await api.answers('GET /pods/pod7', [200, { id: 'pod7', status: 'ERROR', cost: 0.34 }]);
		await api.answers('DELETE /pods/pod7', [204, '']);
		await api.answers('POST /pods/pod7/action', [204, '']);
		const parameters = {
			operation: 'start',
			startMode: 'rent',
			gpu: '4090',
			maxPrice: 1,
			image: 'me/l:1',
		};
		await assert.rejects(execute(at('runpod', parameters)), /pod7 at RunPod is failed/);
		const { body } = (await api.calls('POST', '/pods')).at(-1) ?? {};
		assert.deepEqual(Object.keys(body ?? {}), [
			...['name', 'image', 'cloud', 'gpu', 'disk', 'mounts', 'ports', 'env'],
		]);
		assert.deepEqual(body?.gpu, {
			id: 'NVIDIA GeForce RTX 4090',
			count: 1,
			minCudaVersion: '12.0',
		});
		assert.equal(body?.cloud, 'COMMUNITY');
		assert.equal((await api.calls('DELETE', '/pods/pod7')).length, 1);
		const running = { id: 'pod7', status: 'RUNNING', cost: { perHour: 0.34 }, runtime: null };
		await api.answers('GET /pods/pod7', [200, running], [404, { title: 'Not Found' }]);
		const status = { operation: 'getStatus', machineId: 'pod7' };
		const [item] = await execute(at('runpod', status));
		assert.equal(item.json.url, 'https://pod7-5000.proxy.runpod.net');
		assert.equal(item.json.price_per_hour, 0.34);
		assert.equal((await execute(at('runpod', status)))[0].json.state, 'gone');
		await execute(at('runpod', { operation: 'stop', machineId: 'pod7' }));
		assert.deepEqual((await api.calls('POST', '/pods/pod7/action')).at(-1)?.body, {
			action: 'stop',
		});
	});

	it('sends TensorDock the calls of its API', async () => {
		await api.answers('GET /instances', [200, { data: { instances: [] } }]);
		await api.answers('GET /locations', [200, OFFERS.tensordock_places]);
		await api.answers('POST /instances', [201, { data: { type: 'virtualmachine', id: 'vm-9' } }]);
		const attributes = { status: 'error', ipAddress: '9.9.9.9', rateHourly: 0.41, name: 'mine' };
		await api.answers('GET /instances/vm-9', [200, { data: { id: 'vm-9', attributes } }]);
		await api.answers('DELETE /instances/vm-9', [204, '']);
		const parameters = {
			operation: 'start',
			startMode: 'rent',
			gpu: '4090',
			maxPrice: 0.42,
			image: 'me/l:1',
			machineOptions: { sshKey: 'ssh-ed25519 A', profile: 'sadtalker-256' },
		};
		await assert.rejects(execute(at('tensordock', parameters)), /vm-9 at TensorDock is failed/);
		const sent = (await api.calls('POST', '/instances'))[0].body?.data as {
			attributes: Parameters;
		};
		assert.equal(sent.attributes.location_id, 'loc-1');
		const [head, ...lines] = String(sent.attributes.cloud_init).split('\n');
		assert.equal(head, '#cloud-config');
		const { runcmd } = JSON.parse(lines.join('\n')) as { runcmd: string[][] };
		assert.match(runcmd[6][2], /--gpus=all .*--env=LIPSYNC_PROFILE=sadtalker-256 .*me\/l:1$/);
		await api.answers('GET /instances', [200, { data: [{ id: 'vm-9', attributes }] }]);
		const [item] = await execute(at('tensordock', { operation: 'getAll' }));
		assert.deepEqual(
			[item.json.machine_id, item.json.url, item.json.price_per_hour],
			['vm-9', 'http://9.9.9.9:5000', 0.41],
		);
	});

	it('names the credential when the key is wrong, and shows the key nowhere', async () => {
		const account = { provider: 'vast', apiKey: 'sk-not-this-one', apiUrl: api.url };
		const parameters = { operation: 'stop', machineId: '5' };
		await assert.rejects(
			execute(at('vast', parameters, { account })),
			(error: NodeOperationError) => {
				assert.match(String(error.description), /Rented GPU API credential/);
				assert.doesNotMatch(JSON.stringify(error) + error.message, /sk-not-this-one/);
				return true;
			},
		);
	});

	it('counts down to the idle stop, and keeps the machine, with the token of its own server', async (t) => {
		let idle: typeof IDLE = { ...IDLE, in_s: 290 };
		const server = await serve(t, (asked, response) => {
			const isKnown = asked.headers.authorization === 'Bearer tok';
			if (asked.path === '/readyz') json(response, 200, READY);
			else if (!isKnown) problem(response, 401, 'unauthorized', 'The token is not known.');
			else if (asked.path === '/v1/idle-stop') json(response, 200, idle);
			else if (asked.path === '/v1/idle-stop/keep') {
				const { minutes } = JSON.parse(asked.body.toString()) as { minutes: number };
				idle = { ...idle, in_s: minutes * 60, kept_s: minutes * 60 };
				json(response, 200, idle);
			} else problem(response, 404, 'not_found', 'No such page.');
		});
		await api.answers('GET /instances/5/', vastAt(portOf(server)));
		const status = async (machineToken: string) => {
			const parameters = { operation: 'getStatus', machineId: '5', machineToken };
			return (await execute(at('vast', parameters)))[0].json;
		};
		const before = await status('tok');
		assert.equal(before.stops_in_minutes, 4.8);
		assert.equal(before.next_start_costs, '0.082 USD');
		assert.match(String(before.stops), /^in 4 minutes unless .*Machine > Keep Running keeps it$/);
		assert.match(String((await status('')).stops), /^unknown: Server Token is empty/);
		assert.match(String((await status('other')).stops), /^unknown: The token is not known/);

		const keep = (machineToken: string, keepMinutes: number) =>
			execute(at('vast', { operation: 'keep', machineId: '5', machineToken, keepMinutes }));
		const [kept] = await keep('tok', 45);
		assert.deepEqual([kept.json.kept_minutes, kept.json.stops_in_minutes], [45, 45]);
		assert.match(String((await status('tok')).stops), /^in 45 minutes .*somebody keeps it/);
		await assert.rejects(keep('other', 45), (error: NodeOperationError) => {
			assert.match(error.message, /The token is not known/);
			assert.match(String(error.description), /Machine > Start/);
			return true;
		});
		await assert.rejects(keep('tok', 721), /Minutes is 721; it has to be a number from 0 to 720/);

		idle = { ...IDLE, in_s: null };
		assert.match(String((await status('tok')).stops), /^not counting down: a job runs/);
		idle = { ...IDLE, enabled: false, in_s: null };
		assert.match(String((await status('tok')).stops), /^never by itself: use Machine > Stop/);
		await api.answers('GET /instances/5/', [200, { instances: { actual_status: 'exited' } }]);
		await assert.rejects(keep('tok', 45), /does not run, so it cannot be kept: it is stopped/);
	});

	it('waits when there are too many requests, and sends a create only once', async () => {
		await api.answers('GET /instances/5/', [429, 'too frequent'], vastAt(1));
		const [item] = await execute(at('vast', { operation: 'getStatus', machineId: '5' }));
		assert.equal(item.json.state, 'running');
		assert.equal(item.json.ready, false);
		await api.answers('GET /instances/', [200, { instances: [] }]);
		await api.answers('POST /bundles/', [200, OFFERS.vast_offers]);
		await api.answers('PUT /asks/1/', [502, 'bad gateway']);
		const before = (await api.calls('PUT', '/asks/1/')).length;
		const parameters = { operation: 'start', startMode: 'rent', gpu: '', maxPrice: 1, image: 'a' };
		await assert.rejects(execute(at('vast', parameters, { executionId: '98' })), /502/);
		assert.equal((await api.calls('PUT', '/asks/1/')).length, before + 1);
	});
});

/** A Lipsync server that is ready, with one engine that is not. */
async function lipsync(t: TestContext): Promise<Scripted> {
	return await serve(t, (asked, response) => {
		if (asked.path === '/readyz') json(response, 200, READY);
		else if (asked.path === '/v1/engines') json(response, 200, ENGINES);
		else problem(response, 404, 'not_found', 'No such page.');
	});
}

function portOf({ url }: Scripted): number {
	return Number(new URL(url).port);
}
