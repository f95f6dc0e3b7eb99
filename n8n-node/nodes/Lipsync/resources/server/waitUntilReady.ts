/**
 * Server > Wait Until Ready: waits for a machine that was just started.
 *
 * While the machine boots, no program answers at its address. Then a tunnel may answer whose server does not run yet.
 * Then the server answers with the progress of its downloads and of loading the engine. In all three cases the node waits;
 * none is a failure.
 */
import { NodeOperationError, type IDataObject, type INodeExecutionData } from 'n8n-workflow';

import { pause, send, sendJson } from '../../api/client';
import { asNodeError, connectionCode, isConnectionLost } from '../../api/errors';
import { TimeLimit, USUAL } from '../../api/patience';
import { serverOf, type Server } from '../../api/server';
import type { Readiness, ServerInfo } from '../../api/types';
import { eachItem, numberBetween } from '../../items';
import type { Operation } from '../../operation';

const PAUSE_MS = 5_000;
const NOT_YET = [404, 425, 429, 502, 503, 504, 520, 521, 522, 523, 524, 530];

interface Probe {
	ready: boolean;
	/** The state of the server in words. */
	state: string;
	failed?: boolean;
	readiness?: Readiness;
}

export const waitUntilReady: Operation = {
	option: {
		name: 'Wait Until Ready',
		value: 'waitUntilReady',
		description: 'Wait for a machine that was just started, with its downloads and loading',
		action: 'Wait until server is ready',
	},
	fields: [
		{
			displayName: 'Engine',
			name: 'engine',
			type: 'string',
			default: 'auto',
			placeholder: 'e.g. auto',
			description:
				'Name of the engine that has to be available; "auto" accepts any engine. A server may serve a simple engine while it downloads the model files of another.',
		},
		{
			displayName: 'Timeout (Minutes)',
			name: 'timeoutMinutes',
			type: 'number',
			typeOptions: { minValue: 0.01 },
			default: 60,
			description: 'How long to wait before the node fails',
		},
	],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const minutes = context.getNodeParameter('timeoutMinutes', i);
			const limitMs = numberBetween(context, 'Timeout', minutes, [0.01, 10_080], i) * 60_000;
			const engine = String(context.getNodeParameter('engine', i) || 'auto').trim();
			const json = await untilReady(serverOf(context, i), engine, limitMs);
			return { json, pairedItem: { item: i } } satisfies INodeExecutionData;
		}),
};

/** Wait until `engine` ("auto": any engine) can take jobs. Returns the output fields: readiness, version, address. */
export async function untilReady(
	server: Server,
	engine: string,
	limitMs: number,
): Promise<IDataObject> {
	const { context, itemIndex } = server;
	const limit = new TimeLimit(limitMs);
	return await limit.during(async () => {
		let lastState = '';
		for (;;) {
			const found = await probe(server, engine, limit);
			if (found.state !== lastState) {
				lastState = found.state;
				context.logger.info(`Lipsync server: ${lastState}`);
				if ('sendMessageToUI' in context) context.sendMessageToUI(`Lipsync server: ${lastState}`);
			}
			if (found.ready) return await readyJson(server, found, limit);
			if (found.failed) {
				throw new NodeOperationError(context.getNode(), 'The Lipsync server did not become ready', {
					description: found.state,
					itemIndex,
				});
			}
			if (limit.isOver) {
				throw new NodeOperationError(
					context.getNode(),
					`The Lipsync server is not ready after ${limit.inWords}`,
					{ description: `The last state: ${found.state}`, itemIndex },
				);
			}
			await pause(context, Math.min(PAUSE_MS, limit.leftMs));
		}
	});
}

async function probe(server: Server, engine: string, limit: TimeLimit): Promise<Probe> {
	const attemptMs = Math.max(1000, Math.min(20_000, limit.leftMs));
	let readiness: Partial<Readiness>;
	try {
		const response = await send(
			server,
			{ method: 'GET', path: '/readyz', accept: NOT_YET },
			{ attemptMs, reconnectMs: 0, busyMs: 0 },
		);
		readiness = (response.body ?? {}) as Partial<Readiness>;
		if (typeof readiness.ready !== 'boolean') {
			return {
				ready: false,
				state: `its address answers ${response.statusCode}, the server is not up yet`,
			};
		}
	} catch (error) {
		if (isConnectionLost(error)) {
			return {
				ready: false,
				state: `nothing answers at its address yet (${connectionCode(error)})`,
			};
		}
		throw asNodeError(server.context, error, server.itemIndex);
	}
	const whole = readiness as Readiness;
	const state = progress(whole);
	if (!whole.ready)
		return { ready: false, failed: whole.stage === 'failed', state, readiness: whole };
	if (engine === 'auto') return { ready: true, state, readiness: whole };
	const info = await sendJson<ServerInfo>(server, { method: 'GET', path: '/v1/engines' });
	const wanted = info.engines.find(({ name }) => name === engine);
	if (wanted === undefined) {
		const names = info.engines.map(({ name }) => name).join(', ');
		return {
			ready: false,
			failed: true,
			state: `it has no engine ${engine}; it has: ${names}`,
			readiness: whole,
		};
	}
	return wanted.available
		? { ready: true, state, readiness: whole }
		: { ready: false, state: `${engine} is not available yet: ${wanted.reason}`, readiness: whole };
}

async function readyJson(
	server: Server,
	{ readiness }: Probe,
	limit: TimeLimit,
): Promise<IDataObject> {
	// /readyz needs no token. A call to /v1/me shows a wrong token now, and not after the upload.
	const me = await sendJson<IDataObject>(server, { method: 'GET', path: '/v1/me' }, USUAL);
	return {
		ready: true,
		detail: readiness?.detail,
		engine: me.engine,
		version: me.version,
		waited_s: Math.round((limit.totalMs - limit.leftMs) / 1000),
		url: await server.address(),
	};
}

function progress({
	stage,
	fraction,
	detail,
	bytes_done,
	bytes_total,
	seconds_left,
}: Readiness): string {
	const parts = [`${stage}, ${Math.floor(fraction * 100)} %`];
	if (bytes_done !== null && bytes_total !== null) {
		parts.push(`${(bytes_done / 1e9).toFixed(1)} of ${(bytes_total / 1e9).toFixed(1)} GB`);
	}
	if (seconds_left !== null) parts.push(`${Math.ceil(seconds_left / 60)} min left`);
	if (detail) parts.push(detail);
	return parts.join(', ');
}
