/** Waits until a machine runs and the Lipsync server on it takes jobs. */
import { NodeOperationError, type IExecuteFunctions } from 'n8n-workflow';

import { pause } from '../api/client';
import type { Readiness, ServerInfo } from '../api/types';
import { detailOf, probe } from './probe';
import type { Machine, Provider } from './machine';

const POLL_EVERY_MS = 5_000;
/** After a start, a provider may still answer "stopped" for this long. */
const STILL_STOPPED_MS = 60_000;

export interface Limits {
	/** How long the provider may take to start the machine. */
	startMs: number;
	/** How long the server may take after the start of the machine. The server downloads its model files in this time. */
	readyMs: number;
}

/** Wait until the server on the machine is ready. The address is read at every poll, because a restart changes it. */
export async function waitUntilReady(
	context: IExecuteFunctions,
	provider: Provider,
	id: string,
	limits: Limits,
	itemIndex: number,
): Promise<Machine> {
	const began = Date.now();
	let runningSince: number | undefined;
	let lastDetail = '';
	const fail = (message: string) =>
		new NodeOperationError(context.getNode(), message, { itemIndex });
	for (;;) {
		const machine = await provider.state(id);
		let detail = `${machine.state}: ${machine.detail}`;
		const isStopped = machine.state === 'stopped' && Date.now() - began > STILL_STOPPED_MS;
		if (isStopped || machine.state === 'failed' || machine.state === 'gone') {
			throw fail(`Machine ${id} at ${provider.title} is ${detail}`);
		}
		if (machine.state === 'running' && machine.url !== '') {
			runningSince ??= Date.now();
			const readiness = await readReadiness(context, machine.url);
			if (readiness?.ready) return machine;
			if (readiness?.stage === 'failed') {
				throw fail(`The server on machine ${id} cannot start: ${readiness.detail}`);
			}
			detail = readiness?.detail ?? 'the server does not answer yet';
			if (Date.now() - runningSince > limits.readyMs) {
				throw fail(
					`Machine ${id} runs for ${minutes(limits.readyMs)} and its server is not ready: ${detail}`,
				);
			}
		} else if (Date.now() - began > limits.startMs) {
			throw fail(
				`Machine ${id} has been starting for ${minutes(limits.startMs)} (${detail}); its GPU may be taken`,
			);
		}
		if (detail !== lastDetail) {
			lastDetail = detail;
			context.logger.info(`Lipsync machine ${id}: ${detail}`);
			context.sendMessageToUI(`Lipsync machine ${id}: ${detail}`);
		}
		await pause(context, POLL_EVERY_MS);
	}
}

/** Read /readyz of the server at `url`; undefined while no server answers. /readyz needs no token, and none is sent. */
export async function readReadiness(
	context: IExecuteFunctions,
	url: string,
): Promise<Readiness | undefined> {
	const body = (await probe(context, { url: `${url}/readyz` }))?.body;
	return body instanceof Object && typeof (body as Readiness).ready === 'boolean'
		? (body as Readiness)
		: undefined;
}

/** One line for each engine that cannot run, with the reason; or one line if the server does not accept the token. */
export async function readMissing(
	context: IExecuteFunctions,
	url: string,
	token: string,
): Promise<string[]> {
	const answer = await probe(context, { url: `${url}/v1/engines` }, token);
	const engines = (answer?.body as Partial<ServerInfo> | undefined)?.engines;
	if (!Array.isArray(engines)) {
		return [`access: ${detailOf(answer, 'the server gave no list of engines')}`];
	}
	return engines
		.filter(({ available }) => !available)
		.map(({ name, reason }) => `${name}: ${reason}`);
}

function minutes(ms: number): string {
	return `${Math.round(ms / 60_000)} minutes`;
}
