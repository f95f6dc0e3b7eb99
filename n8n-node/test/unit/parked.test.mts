/** Parking and waking an execution, and the webhook of the trigger, against a server with scripted answers. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it, type TestContext } from 'node:test';

import type { IWebhookFunctions, IWebhookResponseData } from 'n8n-workflow';

import { Lipsync } from '../../nodes/Lipsync/Lipsync.node.js';
import { LipsyncWebhookTrigger } from '../../nodes/Lipsync/LipsyncWebhookTrigger.node.js';
import { execute, makeContext, withFiles, type Context } from './context.mjs';
import { job, json, serve, working, type Scripted } from './scripted.mjs';

interface Call {
	json?: object;
	body?: object;
	headers?: Record<string, string>;
	parameters?: Record<string, unknown>;
	memory?: Record<string, unknown>;
}

interface Called {
	result: IWebhookResponseData;
	status: number;
}

/** Call a webhook as n8n does; `json` is the stored item of the parked execution. */
async function call(
	node: Lipsync | LipsyncWebhookTrigger,
	server: Scripted,
	given: Call,
): Promise<Called> {
	let status = 200;
	const response = {
		status: (code: number) => {
			status = code;
			return { json: () => undefined };
		},
	};
	const base = makeContext({ baseUrl: server.url });
	const own = {
		getMode: () => 'webhook',
		evaluateExpression: () => (given.json as Record<string, unknown> | undefined)?.__lipsync_job,
		getBodyData: () => given.body ?? {},
		getHeaderData: () => given.headers ?? {},
		getRequestObject: () => ({ rawBody: Buffer.from(JSON.stringify(given.body ?? {})) }),
		getResponseObject: () => response,
		getWorkflowStaticData: () => given.memory ?? {},
		getNodeParameter: (name: string, fallback?: unknown) => given.parameters?.[name] ?? fallback,
	};
	const context = Object.assign(Object.create(base) as object, own) as unknown as IWebhookFunctions;
	return { result: await node.webhook.call(context), status };
}

/** A context in which the node can be parked; `stored` is the input that n8n keeps for it. */
function parkable(server: Scripted, more: object = {}): Context & { stored: { data: unknown } } {
	const context = makeContext({
		baseUrl: server.url,
		items: [withFiles()],
		parameters: { options: { park: true } },
		onError: 'continueErrorOutput',
		...more,
	});
	const stored = { data: { main: [context.getInputData()] } as unknown };
	return Object.assign(context, {
		stored,
		until: undefined as Date | undefined,
		getExecuteData: () => stored,
		evaluateExpression: (text: string) =>
			text.includes('resumeUrl') ? 'http://n8n/webhook-waiting/17?signature=s' : 0,
		async putExecutionToWait(this: { until?: Date }, until: Date) {
			this.until = await Promise.resolve(until);
		},
	}) as unknown as Context & { stored: { data: unknown } };
}

const inState = (t: TestContext, state: string) =>
	serve(t, (asked, response) => {
		if (asked.path.endsWith('/video')) working()(asked, response);
		else json(response, 200, job('job7', state));
	});

const TICKET = {
	name: 'Anna',
	__lipsync_job: {
		jobId: 'job7',
		outputField: 'clip',
		srtField: '',
		posterField: '',
		sheetField: '',
		downloads: true,
		keepsOnServer: false,
		isSimple: true,
	},
};

describe('a parked execution', () => {
	it('keeps no file of its input, is woken by no clock, and has given the server its address', async (t) => {
		const server = await serve(
			t,
			working((asked, response) => {
				if (asked.method !== 'GET') return false;
				json(response, 200, job('job0', 'running'));
				return true;
			}),
		);
		const context = parkable(server);
		await execute(context);
		assert.deepEqual((context as unknown as { until: Date }).until.getUTCFullYear(), 3000);
		const { main } = context.stored.data as {
			main: Array<Array<{ binary?: object; json: object }>>;
		};
		assert.equal(main[0].length, 1);
		assert.equal(main[0][0].binary, undefined);
		assert.match(JSON.stringify(main[0][0].json), /"jobId":"job0"/);
		assert.match(
			server.to('POST', /jobs$/)[0].body.toString(),
			/name="callback_url"\r\n\r\nhttp:\/\/n8n\/webhook-waiting\/17\?signature=s\r\n/,
		);
		assert.ok(context.getInputData()[0].binary, 'the node before keeps its files');
	});

	it('is refused before anything is sent where parking is not safe', async (t) => {
		const server = await serve(t, working());
		await assert.rejects(execute(parkable(server, { onError: undefined })), /another On Error/);
		const bar = { parameters: { options: { park: true }, check: { bar: 0.6 } } };
		const both = await execute(parkable(server, bar));
		assert.match(String(both[0].json.error), /do not go together/);
		const two = await execute(parkable(server, { items: [withFiles(), withFiles()] }));
		assert.match(String(two[0].json.error), /one item at a time/);
		assert.equal(server.asked.length, 0);
	});

	it('continues with the video when the server reports that the job has succeeded', async (t) => {
		const { result } = await call(new Lipsync(), await inState(t, 'succeeded'), { json: TICKET });
		const [[item]] = result.workflowData ?? [[]];
		assert.equal(item.json.job_id, 'job7');
		assert.deepEqual(Object.keys(item.binary ?? {}), ['clip']);
	});

	for (const state of ['failed', 'cancelled']) {
		it(`continues with an error and no file when the job has ${state}`, async (t) => {
			const { result } = await call(new Lipsync(), await inState(t, state), { json: TICKET });
			const [[item]] = result.workflowData ?? [[]];
			assert.deepEqual(Object.keys(item.json), ['error', 'message']);
			assert.equal(item.binary, undefined);
		});
	}

	it('stays parked on a call that is too early, from a stranger, or while the server does not answer', async (t) => {
		const running = await call(new Lipsync(), await inState(t, 'running'), {
			json: TICKET,
			body: { event: 'job.succeeded', job: job('job7', 'succeeded') },
		});
		assert.equal(running.status, 409);
		assert.equal(running.result.workflowData, undefined);
		const other = await call(new Lipsync(), await inState(t, 'succeeded'), { json: {} });
		assert.equal(other.status, 409);
		assert.equal(other.result.workflowData, undefined);
		const away = await serve(t, (_asked, response) => json(response, 500, {}));
		const broken = await call(new Lipsync(), away, { json: TICKET });
		assert.equal(broken.status, 503);
		assert.equal(broken.result.workflowData, undefined);
	});
});

describe('the webhook of the trigger', () => {
	const signed = (body: object, key = 'key') => {
		const atS = Math.floor(Date.now() / 1000);
		const text = `${atS}.${JSON.stringify(body)}`;
		return {
			'lipsync-signature': `t=${atS},v1=${createHmac('sha256', key).update(text).digest('hex')}`,
		};
	};
	const about = (id: string) => ({ event: 'job.succeeded', job: { id } });

	it('starts the workflow once for a job, with the data of the server itself', async (t) => {
		const server = await serve(t, (asked, response) => {
			if (asked.path.endsWith('/video')) working()(asked, response);
			else if (asked.path === '/v1/webhooks/w/deliveries/replay1')
				json(response, 200, { job_id: 'replay1', waits: false });
			else if (asked.path.startsWith('/v1/webhooks/')) json(response, 200, { waits: true });
			else json(response, 200, job(asked.path.split('/')[3], 'succeeded'));
		});
		const memory = { live: { id: 'w', key: 'key' } };
		const given = (id: string, key?: string) => ({
			body: about(id),
			headers: signed(about(id), key),
			parameters: { events: ['succeeded'] },
			memory,
		});
		const first = await call(new LipsyncWebhookTrigger(), server, given('once1'));
		const [[item]] = first.result.workflowData ?? [[]];
		assert.equal(item.json.job_id, 'once1');
		assert.ok(item.binary?.data);
		assert.deepEqual(memory.live, { id: 'w', key: 'key' }, 'n8n has nothing to remember');
		const again = await call(new LipsyncWebhookTrigger(), server, given('once1'));
		assert.equal(again.status, 200);
		assert.equal(again.result.workflowData, undefined);
		const replay = await call(new LipsyncWebhookTrigger(), server, given('replay1'));
		assert.equal(replay.status, 200);
		assert.equal(replay.result.workflowData, undefined, 'the server waits for nothing');
		const stranger = await call(new LipsyncWebhookTrigger(), server, given('once2', 'other'));
		assert.equal(stranger.status, 401);
		const unregistered = { ...given('once3'), memory: {} };
		assert.equal((await call(new LipsyncWebhookTrigger(), server, unregistered)).status, 401);
	});

	it('asks the server to call again when the video cannot be fetched, and starts then', async (t) => {
		let isAway = true;
		const server = await serve(t, (asked, response) => {
			if (isAway) json(response, 500, {});
			else if (asked.path.endsWith('/video')) working()(asked, response);
			else if (asked.path.startsWith('/v1/webhooks/')) json(response, 200, { waits: true });
			else json(response, 200, job('again1', 'succeeded'));
		});
		const given = {
			body: about('again1'),
			headers: signed(about('again1')),
			parameters: { events: ['succeeded'] },
			memory: { live: { id: 'w', key: 'key' } },
		};
		const first = await call(new LipsyncWebhookTrigger(), server, given);
		assert.equal(first.status, 503);
		assert.equal(first.result.workflowData, undefined);
		isAway = false;
		const second = await call(new LipsyncWebhookTrigger(), server, given);
		assert.equal(second.result.workflowData?.[0].length, 1);
	});

	it('starts nothing for an end that the panel does not name', async (t) => {
		const server = await serve(t, (asked, response) => {
			if (asked.path.startsWith('/v1/webhooks/')) json(response, 200, { waits: true });
			else json(response, 200, job('x1', 'failed'));
		});
		const called = await call(new LipsyncWebhookTrigger(), server, {
			body: about('x1'),
			headers: signed(about('x1')),
			parameters: { events: ['succeeded'] },
			memory: { live: { id: 'w', key: 'key' } },
		});
		assert.equal(called.status, 200);
		assert.equal(called.result.workflowData, undefined);
	});
});
