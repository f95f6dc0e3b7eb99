/**
 * The webhook of the trigger at the server: registered when the workflow is switched on, and removed when it is switched
 * off. The server knows which deliveries are open, so n8n needs no memory of the jobs that have started the workflow.
 *
 * The server keeps the registration over its restarts, and n8n keeps the key with the workflow. A test run of the editor
 * has a registration of its own, so that it never touches the one of the published workflow.
 */
import type { IDataObject, IHookFunctions, IWebhookFunctions } from 'n8n-workflow';

import { send } from '../api/client';
import { refused } from '../api/errors';
import { byCredential, type Server } from '../api/server';
import { wantedOf, type TriggerEvent } from './events';

export interface Registration {
	id: string;
	key: string;
}

const PATH = '/v1/webhooks';
const EVENT_OF: Record<TriggerEvent, string> = {
	succeeded: 'job.succeeded',
	failed: 'job.failed',
	cancelled: 'job.cancelled',
	// The server has no event of its own for a video below the bar: the node reads the score of each finished video.
	belowQuality: 'job.succeeded',
};

/** The part of the workflow's memory for this mode; an empty one before the first registration. */
export function registrationOf(context: IHookFunctions | IWebhookFunctions): Partial<Registration> {
	const memory = context.getWorkflowStaticData('node');
	const name = context.getMode() === 'manual' ? 'test' : 'live';
	memory[name] ??= {};
	return memory[name] as Partial<Registration>;
}

/** Whether the server waits for the answer to its POST about this job. A POST that is sent a second time is a replay. */
export async function isAwaited(
	server: Server,
	registration: Partial<Registration>,
	jobId: string,
): Promise<boolean> {
	const path = `${PATH}/${registration.id}/deliveries/${jobId}`;
	const { statusCode, body } = await send(server, { method: 'GET', path, accept: [404] });
	return statusCode !== 404 && (body as unknown as { waits: boolean }).waits;
}

export async function isRegistered(context: IHookFunctions): Promise<boolean> {
	const { id } = registrationOf(context);
	if (!id) return false;
	const { statusCode, body } = await send(byCredential(context), {
		method: 'GET',
		path: `${PATH}/${id}`,
		accept: [404],
	});
	if (statusCode === 404) return false;
	const { url, events } = body as unknown as { url: string; events: string[] };
	return url === context.getNodeWebhookUrl('default') && sameSet(events, eventsOf(context));
}

export async function register(context: IHookFunctions): Promise<boolean> {
	const server = byCredential(context);
	const registration = registrationOf(context);
	if (registration.id) await remove(server, registration.id);
	const content = Buffer.from(
		JSON.stringify({ url: context.getNodeWebhookUrl('default'), events: eventsOf(context) }),
	);
	const call = {
		method: 'POST' as const,
		path: PATH,
		accept: [404],
		body: async () =>
			await Promise.resolve({ content, headers: { 'Content-Type': 'application/json' } }),
	};
	const { statusCode, headers, body } = await send(server, call);
	if (statusCode === 404) {
		throw refused(server, 404, { detail: TOO_OLD, code: 'not_found' }, headers);
	}
	const { id, secret } = body as unknown as IDataObject;
	Object.assign(registration, { id, key: secret });
	return true;
}

export async function unregister(context: IHookFunctions): Promise<boolean> {
	const registration = registrationOf(context);
	if (registration.id) await remove(byCredential(context), registration.id);
	delete registration.id;
	delete registration.key;
	return true;
}

const TOO_OLD =
	'This server cannot call n8n: it is older than this node. Update it, or use Lipsync Trigger, which asks the server';

async function remove(server: Server, id: string): Promise<void> {
	await send(server, { method: 'DELETE', path: `${PATH}/${id}`, accept: [404] });
}

function eventsOf(context: IHookFunctions): string[] {
	return [...new Set(wantedOf(context).events.map((event) => EVENT_OF[event]))];
}

function sameSet(one: string[], other: string[]): boolean {
	return one.length === other.length && one.every((each) => other.includes(each));
}
