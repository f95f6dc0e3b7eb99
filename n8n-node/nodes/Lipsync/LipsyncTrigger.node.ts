import {
	NodeConnectionTypes,
	NodeOperationError,
	type INodeExecutionData,
	type INodeType,
	type INodeTypeDescription,
	type IPollFunctions,
} from 'n8n-workflow';

import { asNodeError } from './api/errors';
import { byCredential, type Server } from './api/server';
import type { Job } from './api/types';
import { pagesOfJobs } from './jobs/list';
import { EMPTY, findEnded, remember, type Memory } from './jobs/ended';
import { testServer } from './methods/testServer';
import { eventFields, isWanted, wantedOf, type Wanted } from './trigger/events';
import { itemFields, itemFor } from './trigger/item';

const ON_A_PAGE = 100;
/** Limits of one poll: the number of jobs and the time. The next poll reports the remaining jobs. */
const MOST_AT_ONCE = 10;
const LONGEST_POLL_MS = 120_000;

/**
 * The polls that run now, by workflow and node. n8n starts a poll although the one before still downloads a video; with
 * the same memory, both would report the same job.
 */
const underWay = new Set<string>();

/** Starts a workflow for every job that has ended, whether n8n, the web page or curl started the job. */
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
		properties: [...eventFields, ...itemFields],
	};

	methods = { credentialTest: { testServer } };

	async poll(this: IPollFunctions): Promise<INodeExecutionData[][] | null> {
		const server = byCredential(this);
		const wanted = wantedOf(this);
		const isTest = this.getMode() === 'manual';
		const place = `${this.getWorkflow().id} ${this.getNode().id}`;
		if (!isTest && underWay.has(place)) return null;
		if (!isTest) underWay.add(place);
		try {
			if (isTest) return [await example(server, wanted)];
			const memory = this.getWorkflowStaticData('node') as unknown as Partial<Memory>;
			const began = Date.now();
			const isFirst = memory.known === undefined;
			const before: Memory = { ...EMPTY, ...memory };
			const found = await findEnded(pagesOfJobs(server, ON_A_PAGE), before);
			const items: INodeExecutionData[] = [];
			const reported: Job[] = [];
			for (const job of found.ended) {
				// Jobs that had ended before the workflow was switched on start nothing.
				if (!isFirst && isWanted(job, wanted)) {
					const isLate = Date.now() - began > LONGEST_POLL_MS;
					if (items.length === MOST_AT_ONCE || (items.length > 0 && isLate)) break;
					items.push(await itemFor(server, job));
				}
				reported.push(job);
			}
			Object.assign(memory, remember(before, found, reported));
			return items.length > 0 ? [items] : null;
		} catch (error) {
			throw asNodeError(this, error);
		} finally {
			if (!isTest) underWay.delete(place);
		}
	}
}

/** The newest job in one of the wanted states, for a test run in the editor. No job is marked as reported. */
async function example(
	server: Server<IPollFunctions>,
	wanted: Wanted,
): Promise<INodeExecutionData[]> {
	for await (const page of pagesOfJobs(server, ON_A_PAGE)) {
		const found = page.find((job) => isWanted(job, wanted));
		if (found !== undefined) return [await itemFor(server, found, true)];
	}
	throw new NodeOperationError(
		server.context.getNode(),
		`The server has no job that is ${wanted.events.join(' or ')}`,
		{
			description:
				'Make one video first, with Lipsync > Video > Generate or on the web page of the server',
		},
	);
}
