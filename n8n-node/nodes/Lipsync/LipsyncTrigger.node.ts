import {
	NodeConnectionTypes,
	NodeOperationError,
	type IDataObject,
	type INodeExecutionData,
	type INodeType,
	type INodeTypeDescription,
	type IPollFunctions,
} from 'n8n-workflow';

import { asNodeError, messageOf } from './api/errors';
import { byCredential, type Server } from './api/server';
import { isFinal, type Job, type JobState } from './api/types';
import { download, markCollected } from './jobs/collect';
import { describeStatus } from './jobs/describe';
import { pagesOfJobs } from './jobs/list';
import { EMPTY, lookForNews, remember, type Memory } from './jobs/news';
import { testServer } from './methods/testServer';
import { keepOnServerField, outputField } from './resources/video/output';

const ON_A_PAGE = 100;
/** Limits of one poll: the number of jobs and the time. The next poll reports the remaining jobs. */
const MOST_AT_ONCE = 10;
const LONGEST_LOOK_MS = 120_000;

/** Starts a workflow for every job that has ended, however it was started: by n8n, the web page or curl. */
export class LipsyncTrigger implements INodeType {
	description: INodeTypeDescription = {
		displayName: 'Lipsync Trigger',
		name: 'lipsyncTrigger',
		icon: { light: 'file:../../icons/lipsync.svg', dark: 'file:../../icons/lipsync.dark.svg' },
		group: ['trigger'],
		version: 1,
		subtitle: '={{ $parameter["events"].join(", ") }}',
		// n8n shows one line for the node and its trigger together.
		description:
			'Make a talking video from a picture and a recording, or start when one is finished or has failed',
		defaults: { name: 'Lipsync Trigger' },
		polling: true,
		inputs: [],
		outputs: [NodeConnectionTypes.Main],
		credentials: [{ name: 'lipsyncApi', required: true, testedBy: 'testServer' }],
		properties: [
			{
				displayName: 'Trigger On',
				name: 'events',
				type: 'multiOptions',
				required: true,
				options: [
					{ name: 'Video Cancelled', value: 'cancelled' },
					{ name: 'Video Failed', value: 'failed' },
					{ name: 'Video Finished', value: 'succeeded' },
				],
				default: ['succeeded'],
				description: 'The ends of a job that start the workflow',
			},
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
				description:
					'Whether to return a simplified version of the response instead of the raw data',
			},
			{
				displayName: 'Options',
				name: 'options',
				type: 'collection',
				placeholder: 'Add Option',
				default: {},
				options: [keepOnServerField, outputField],
			},
		],
	};

	methods = { credentialTest: { testServer } };

	async poll(this: IPollFunctions): Promise<INodeExecutionData[][] | null> {
		const server = byCredential(this);
		const events = this.getNodeParameter('events') as JobState[];
		const memory = this.getWorkflowStaticData('node') as unknown as Partial<Memory>;
		try {
			if (this.getMode() === 'manual') return [await example(server, events)];
			const began = Date.now();
			const isFirst = memory.known === undefined;
			const before: Memory = { ...EMPTY, ...memory };
			const look = await lookForNews(pagesOfJobs(server, ON_A_PAGE), before);
			const items: INodeExecutionData[] = [];
			const reported: Job[] = [];
			for (const job of look.ended) {
				// Jobs that had ended before the workflow was switched on start nothing.
				if (!isFirst && events.includes(job.state)) {
					const isLate = Date.now() - began > LONGEST_LOOK_MS;
					if (items.length === MOST_AT_ONCE || (items.length > 0 && isLate)) break;
					items.push(await itemFor(server, job));
				}
				reported.push(job);
			}
			Object.assign(memory, remember(before, look, reported));
			return items.length > 0 ? [items] : null;
		} catch (error) {
			throw asNodeError(this, error);
		}
	}
}

/** The newest job in one of the wanted states, for a test run in the editor. No job is marked as reported. */
async function example(
	server: Server<IPollFunctions>,
	events: JobState[],
): Promise<INodeExecutionData[]> {
	for await (const page of pagesOfJobs(server, ON_A_PAGE)) {
		const found = page.find(({ state }) => isFinal(state) && events.includes(state));
		if (found !== undefined) return [await itemFor(server, found, true)];
	}
	throw new NodeOperationError(
		server.context.getNode(),
		`The server has no job that is ${events.join(' or ')}`,
		{
			description:
				'Make one video first, with Lipsync > Video > Generate or on the web page of the server',
		},
	);
}

async function itemFor(
	server: Server<IPollFunctions>,
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

function isGone(error: unknown): boolean {
	const { httpCode } = error as { httpCode?: unknown };
	return httpCode === '404' || httpCode === '410';
}
