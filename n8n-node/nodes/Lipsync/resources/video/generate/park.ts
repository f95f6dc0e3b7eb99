/**
 * Parks an execution while the server renders: n8n keeps it in its database and runs nothing until the server calls.
 *
 * n8n has two ways to wake a parked execution. In both n8n does not run the node again, but passes on the data that are
 * stored as the node's input (seen in the engines of n8n 1.123.81 and 2.41.1). Therefore:
 *
 * - The node replaces its stored input by a ticket without files. A picture can never be passed on in place of a video.
 * - The node sets no time at which n8n wakes the execution. Only a call to its webhook does.
 * - On a call the webhook asks the server for the job of the ticket. A call that came too early, or from a stranger,
 *   changes nothing: the execution stays parked.
 * - n8n cannot end an execution with an error at this point. A failed job therefore becomes an item with `error`, and
 *   the node refuses to park unless On Error sends such items to an output.
 */
import {
	NodeOperationError,
	WAIT_INDEFINITELY,
	type IDataObject,
	type IExecuteFunctions,
	type INodeExecutionData,
	type IWebhookDescription,
	type IWebhookFunctions,
	type IWebhookResponseData,
} from 'n8n-workflow';

import { asNodeError, jobEnded, messageOf } from '../../../api/errors';
import { byCredential, type Server } from '../../../api/server';
import { isFinal, type Job } from '../../../api/types';
import { readJob } from '../../../jobs/watch';
import type { Ask } from './ask';
import { deliver, type Delivery } from './deliver';

/** The address at which n8n takes the call that wakes an execution: the one of its own Wait node. */
export const RESUME_WEBHOOK: IWebhookDescription[] = [
	{
		name: 'default',
		httpMethod: 'POST',
		responseMode: 'onReceived',
		path: '',
		isFullPath: true,
		restartWebhook: true,
	},
];

/** The field of the ticket in the JSON of the stored item. */
const TICKET = '__lipsync_job';

interface Ticket extends Delivery {
	jobId: string;
}

/** Throws, before anything is sent, where parking would not be safe. */
export function assertMayPark(context: IExecuteFunctions): void {
	const refuse = (message: string, description: string) =>
		new NodeOperationError(context.getNode(), message, { description, itemIndex: 0 });
	const { onError } = context.getNode();
	if (onError !== 'continueErrorOutput' && onError !== 'continueRegularOutput') {
		throw refuse(
			'Park While Waiting needs another On Error than Stop Workflow',
			'Open Settings of this node and set On Error to "Continue (using error output)": n8n cannot end an execution with an error after it was parked',
		);
	}
	const nItems = context.getInputData().length;
	if (nItems !== 1) {
		throw refuse(
			`Park While Waiting takes one item at a time, and there are ${nItems}`,
			'Put a Loop Over Items node before this one, or turn Park While Waiting off',
		);
	}
	const { bar } = context.getNodeParameter('check', 0, {}) as IDataObject;
	if (bar) {
		throw refuse(
			'Park While Waiting and Check > Bar do not go together',
			'n8n 1.x wakes an execution with the first output only, so a video below the bar would leave there. Remove one of the two fields, and compare quality_score in an If node',
		);
	}
	if (context.getNodeParameter('server', 0, 'credential') === 'input') {
		throw refuse(
			'Park While Waiting works only with Server set to From Credential',
			'A rented machine may be gone when the execution wakes; turn Park While Waiting off',
		);
	}
}

/** Where the server calls when the job has ended. */
export function resumeUrl(context: IExecuteFunctions): string {
	return String(context.evaluateExpression('{{ $execution.resumeUrl }}', 0));
}

/** Park the execution for the job. The returned item is only shown while the execution waits. */
export async function park(
	context: IExecuteFunctions,
	job: Job,
	ask: Ask,
): Promise<INodeExecutionData> {
	const ticket: Ticket = {
		jobId: job.id,
		outputField: ask.outputField,
		srtField: ask.srtField,
		posterField: ask.posterField,
		sheetField: ask.sheetField,
		downloads: ask.downloads,
		keepsOnServer: ask.keepsOnServer,
		isSimple: ask.isSimple,
	};
	const { json } = context.getInputData()[0];
	const item: INodeExecutionData = {
		// Expressions of the panel and the credential read the JSON of the item again when the execution wakes.
		json: { ...json, [TICKET]: ticket as unknown as IDataObject },
		pairedItem: { item: 0 },
	};
	context.getExecuteData().data = { main: [[item]] };
	await context.putExecutionToWait(WAIT_INDEFINITELY);
	return { json: { job_id: job.id, state: job.state }, pairedItem: { item: 0 } };
}

/** Jobs whose video this process fetches: the server calls again while a long download runs. */
const underWay = new Set<string>();

/** Answer a call for a parked execution. The execution wakes only when its job has ended on the server. */
export async function wake(context: IWebhookFunctions): Promise<IWebhookResponseData> {
	const ticket = ticketOf(context);
	if (ticket === undefined) return stay(context, 409, 'This execution waits for no video');
	if (underWay.has(ticket.jobId)) return stay(context, 503, 'The video is being fetched');
	underWay.add(ticket.jobId);
	try {
		const server = byCredential(context);
		const job = await readJob(server, ticket.jobId);
		if (!isFinal(job.state)) return stay(context, 409, `The job is ${job.state}`);
		return { workflowData: [[await itemOf(server, job, ticket)]] };
	} catch (error) {
		context.logger.warn(`Lipsync job ${ticket.jobId}: ${messageOf(error)}; the server calls again`);
		return stay(context, 503, 'The video could not be fetched');
	} finally {
		underWay.delete(ticket.jobId);
	}
}

async function itemOf(
	server: Server<IWebhookFunctions>,
	job: Job,
	ticket: Ticket,
): Promise<INodeExecutionData> {
	const pairedItem = { item: 0 };
	if (job.state !== 'succeeded' || job.links.video === null) {
		const error = asNodeError(server.context, jobEnded(server.context, job));
		return { json: { error: error.message, message: error.description ?? '' }, pairedItem };
	}
	return await deliver(server, job, ticket, 0);
}

function ticketOf(context: IWebhookFunctions): Ticket | undefined {
	const found = context.evaluateExpression(`{{ $json.${TICKET} }}`, 0);
	const isTicket = found instanceof Object && typeof (found as Partial<Ticket>).jobId === 'string';
	return isTicket ? (found as unknown as Ticket) : undefined;
}

/** Answer the call, and leave the execution parked. */
function stay(context: IWebhookFunctions, status: number, message: string): IWebhookResponseData {
	context.getResponseObject().status(status).json({ message });
	return { noWebhookResponse: true };
}
