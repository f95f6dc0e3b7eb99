import {
	NodeConnectionTypes,
	type IHookFunctions,
	type INodeType,
	type INodeTypeDescription,
	type IWebhookFunctions,
	type IWebhookResponseData,
} from 'n8n-workflow';

import { messageOf } from './api/errors';
import { byCredential } from './api/server';
import { readJob } from './jobs/watch';
import { testServer } from './methods/testServer';
import { eventFields, isWanted, wantedOf } from './trigger/events';
import { isGone, itemFor, itemFields } from './trigger/item';
import { isSigned } from './trigger/signature';
import { isAwaited, isRegistered, register, registrationOf, unregister } from './trigger/webhook';

const JOB_ID = /^[0-9a-z]{1,64}$/;

/**
 * Jobs that this process handles or has handled, by workflow and node: the server calls again when an answer was lost.
 * A process that has begun anew asks the server which deliveries are open.
 */
const underWay = new Map<string, Set<string>>();
const handled = new Map<string, Set<string>>();

/** Starts a workflow at once when a job has ended: the server calls n8n. */
export class LipsyncWebhookTrigger implements INodeType {
	description: INodeTypeDescription = {
		displayName: 'Lipsync Webhook Trigger',
		name: 'lipsyncWebhookTrigger',
		icon: { light: 'file:../../icons/lipsync.svg', dark: 'file:../../icons/lipsync.dark.svg' },
		group: ['trigger'],
		version: 1,
		subtitle: '={{ $parameter["events"].join(", ") }}',
		description:
			'Start at once when a talking video is finished or has failed: the server calls n8n',
		defaults: { name: 'Lipsync Webhook Trigger' },
		inputs: [],
		outputs: [NodeConnectionTypes.Main],
		credentials: [{ name: 'lipsyncApi', required: true, testedBy: 'testServer' }],
		webhooks: [
			{ name: 'default', httpMethod: 'POST', responseMode: 'onReceived', path: 'lipsync' },
		],
		properties: [
			{
				displayName:
					'The server has to reach the webhook address of n8n. If it cannot, use <b>Lipsync Trigger</b>, which asks the server.',
				name: 'notice',
				type: 'notice',
				default: '',
			},
			...eventFields,
			...itemFields,
		],
	};

	methods = { credentialTest: { testServer } };

	webhookMethods = {
		default: {
			async checkExists(this: IHookFunctions): Promise<boolean> {
				return await isRegistered(this);
			},
			async create(this: IHookFunctions): Promise<boolean> {
				return await register(this);
			},
			async delete(this: IHookFunctions): Promise<boolean> {
				return await unregister(this);
			},
		},
	};

	/**
	 * Refuses everything that the server has not signed a moment ago, and asks the server itself for the job. A failure on
	 * the way is answered with 503, and the server calls again.
	 */
	async webhook(this: IWebhookFunctions): Promise<IWebhookResponseData> {
		const registration = registrationOf(this);
		const request = this.getRequestObject() as unknown as { rawBody?: Buffer };
		const body = request.rawBody ?? Buffer.alloc(0);
		const signature = this.getHeaderData()['lipsync-signature'];
		if (!registration.key || !isSigned(signature, body, registration.key)) {
			return answer(this, 401, 'The signature is not that of the Lipsync server, or too old');
		}
		const { job: said } = this.getBodyData() as { job?: { id?: unknown } };
		const id = String(said?.id ?? '');
		if (!JOB_ID.test(id)) return answer(this, 400, 'There is no job in the body');
		const place = `${this.getWorkflow().id} ${this.getNode().id} ${this.getMode()}`;
		const known = setAt(handled, place);
		if (known.has(id)) return answer(this, 200, 'The workflow has had this job');
		const busy = setAt(underWay, place);
		if (busy.has(id)) return answer(this, 503, 'The video is being fetched');
		busy.add(id);
		try {
			const server = byCredential(this);
			if (!(await isAwaited(server, registration, id))) {
				return answer(this, 200, 'The workflow has had this job');
			}
			const job = await readJob(server, id);
			if (!isWanted(job, wantedOf(this))) return answer(this, 200, 'Nobody waits for this event');
			const item = await itemFor(server, job, this.getMode() === 'manual');
			known.add(id);
			return { workflowData: [[item]] };
		} catch (error) {
			if (isGone(error)) return answer(this, 200, 'The job is gone');
			this.logger.warn(`Lipsync job ${id}: ${messageOf(error)}; the server calls again`);
			return answer(this, 503, 'The video could not be fetched');
		} finally {
			busy.delete(id);
		}
	}
}

/** Answer without starting the workflow. */
function answer(context: IWebhookFunctions, status: number, message: string): IWebhookResponseData {
	context.getResponseObject().status(status).json({ message });
	return { noWebhookResponse: true };
}

function setAt(sets: Map<string, Set<string>>, place: string): Set<string> {
	const found = sets.get(place) ?? new Set<string>();
	sets.set(place, found);
	return found;
}
