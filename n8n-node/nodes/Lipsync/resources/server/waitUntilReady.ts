/**
 * Server > Wait Until Ready: for a machine that was just started.
 *
 * While it boots nothing answers at its address, then perhaps a tunnel without a server behind it, then the server
 * itself says how far its weights and its engine are. All of that is waiting, not failing.
 */
import {
	NodeOperationError,
	type IDataObject,
	type IExecuteFunctions,
	type INodeExecutionData,
} from 'n8n-workflow';

import { pause, send, sendJson, serverUrl } from '../../api/client';
import { asNodeError, connectionCode, isConnectionLost } from '../../api/errors';
import type { Readiness, ServerInfo } from '../../api/types';
import { eachItem, numberBetween } from '../../items';

const PAUSE_MS = 5_000;
const NOT_YET = [404, 425, 429, 502, 503, 504, 520, 521, 522, 523, 524, 530];

interface Look {
	ready: boolean;
	what: string;
	failed?: boolean;
	readiness?: Readiness;
}

export async function waitUntilReady(context: IExecuteFunctions): Promise<INodeExecutionData[]> {
	return await eachItem(context, async (i) => {
		const began = Date.now();
		const minutes = context.getNodeParameter('timeoutMinutes', i);
		const timeoutMs = numberBetween(context, 'Timeout', minutes, [0.01, 10_080], i) * 60_000;
		const engine = String(context.getNodeParameter('engine', i) || 'auto');
		let said = '';
		for (;;) {
			const seen = await lookOnce(context, engine, i);
			if (seen.what !== said) {
				said = seen.what;
				context.logger.info(`Lipsync server: ${said}`);
				context.sendMessageToUI(`Lipsync server: ${said}`);
			}
			if (seen.ready) return await readyItem(context, seen, began, i);
			if (seen.failed) {
				throw new NodeOperationError(context.getNode(), 'The Lipsync server did not get ready', {
					description: seen.what,
					itemIndex: i,
				});
			}
			const leftMs = began + timeoutMs - Date.now();
			if (leftMs <= 0) {
				throw new NodeOperationError(
					context.getNode(),
					`The Lipsync server is not ready after ${String(minutes)} minutes`,
					{ description: `The last that was seen: ${seen.what}`, itemIndex: i },
				);
			}
			await pause(context, Math.min(PAUSE_MS, leftMs));
		}
	});
}

async function lookOnce(context: IExecuteFunctions, engine: string, i: number): Promise<Look> {
	const call = {
		method: 'GET' as const,
		accept: NOT_YET,
		patienceMs: 0,
		timeoutMs: 20_000,
		itemIndex: i,
	};
	let readiness: Partial<Readiness>;
	try {
		const response = await send(context, { ...call, path: '/readyz' });
		readiness = (response.body ?? {}) as Partial<Readiness>;
		if (typeof readiness.ready !== 'boolean') {
			return {
				ready: false,
				what: `its address answers ${response.statusCode}, the server is not up yet`,
			};
		}
	} catch (error) {
		if (isConnectionLost(error)) {
			return {
				ready: false,
				what: `nothing answers at its address yet (${connectionCode(error)})`,
			};
		}
		throw asNodeError(context, error, i);
	}
	const whole = readiness as Readiness;
	const what = progress(whole);
	if (!whole.ready)
		return { ready: false, failed: whole.stage === 'failed', what, readiness: whole };
	if (engine === 'auto') return { ready: true, what, readiness: whole };
	const info = await sendJson<ServerInfo>(context, {
		method: 'GET',
		path: '/v1/engines',
		itemIndex: i,
	});
	const wanted = info.engines.find(({ name }) => name === engine);
	if (wanted === undefined) {
		return { ready: false, failed: true, what: `it has no engine ${engine}`, readiness: whole };
	}
	return wanted.available
		? { ready: true, what, readiness: whole }
		: { ready: false, what: `${engine} is not available yet: ${wanted.reason}`, readiness: whole };
}

async function readyItem(
	context: IExecuteFunctions,
	{ readiness }: Look,
	began: number,
	i: number,
): Promise<INodeExecutionData> {
	// Readiness is public; asking who we are shows a wrong token now and not after the upload.
	const me = await sendJson<IDataObject>(context, { method: 'GET', path: '/v1/me', itemIndex: i });
	return {
		json: {
			ready: true,
			detail: readiness?.detail,
			engine: me.engine,
			version: me.version,
			waited_s: Math.round((Date.now() - began) / 1000),
			url: await serverUrl(context),
		},
		pairedItem: { item: i },
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
