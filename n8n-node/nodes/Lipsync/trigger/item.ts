/** The item of a job that has ended: its description and, where it is wanted and still there, the video. */
import type {
	IDataObject,
	INodeExecutionData,
	INodeProperties,
	IPollFunctions,
	IWebhookFunctions,
} from 'n8n-workflow';

import { asNodeError, messageOf } from '../api/errors';
import type { Server } from '../api/server';
import type { Job } from '../api/types';
import { download, markCollected } from '../jobs/collect';
import { describeStatus } from '../jobs/describe';
import { keepOnServerField, outputField } from '../resources/video/output';

export const itemFields: INodeProperties[] = [
	{
		displayName: 'Download Video',
		name: 'downloadVideo',
		type: 'boolean',
		default: true,
		description: 'Whether to put the finished video into the output',
	},
	{
		displayName: 'Simplify',
		name: 'simplify',
		type: 'boolean',
		default: true,
		description: 'Whether to return a simplified version of the response instead of the raw data',
	},
	{
		displayName: 'Options',
		name: 'options',
		type: 'collection',
		placeholder: 'Add Option',
		default: {},
		options: [keepOnServerField, outputField],
	},
];

/** `isExample`: a test run in the editor, whose download must not mark the video as collected. */
export async function itemFor(
	server: Server<IPollFunctions | IWebhookFunctions>,
	job: Job,
	isExample = false,
): Promise<INodeExecutionData> {
	const { context } = server;
	const isSimple = context.getNodeParameter('simplify', true) as boolean;
	const options = context.getNodeParameter('options', {}) as IDataObject;
	const item: INodeExecutionData = { json: await describeStatus(server, job, isSimple) };
	const wantsVideo = context.getNodeParameter('downloadVideo', true) as boolean;
	if (job.state !== 'succeeded' || !wantsVideo) return item;
	if (job.links.video === null) {
		item.json.warnings = ['The video was gone before the trigger could fetch it'];
		return item;
	}
	try {
		const field = String(options.outputField ?? '') || 'data';
		item.binary = { [field]: await download(server, job) };
	} catch (error) {
		if (!isGone(error)) throw asNodeError(context, error);
		item.json.warnings = [`The video could not be fetched: ${messageOf(error)}`];
		return item;
	}
	if (options.keepOnServer !== true && !isExample) await markCollected(server, job);
	return item;
}

export function isGone(error: unknown): boolean {
	const { httpCode } = error as { httpCode?: unknown };
	return httpCode === '404' || httpCode === '410';
}
