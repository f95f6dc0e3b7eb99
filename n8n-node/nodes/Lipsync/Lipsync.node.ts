import {
	NodeConnectionTypes,
	NodeOperationError,
	type IExecuteFunctions,
	type INodeExecutionData,
	type INodeType,
	type INodeTypeDescription,
	type IWebhookFunctions,
	type IWebhookResponseData,
} from 'n8n-workflow';

import { getEngineOptions, getEngines, searchEngines } from './methods/engines';
import { searchJobs } from './methods/jobs';
import { testServer } from './methods/testServer';
import type { Operation } from './operation';
import { machineOperations, machineProperties } from './resources/machine';
import { serverOperations, serverProperties } from './resources/server';
import { serverChoice } from './resources/serverChoice';
import { RESUME_WEBHOOK, wake } from './resources/video/generate/park';
import { videoOperations, videoProperties } from './resources/video';
import { outputs } from './resources/video/generate/check';

const OPERATIONS: Record<string, Operation[]> = {
	video: videoOperations,
	machine: machineOperations,
	server: serverOperations,
};

export class Lipsync implements INodeType {
	description: INodeTypeDescription = {
		displayName: 'Lipsync',
		name: 'lipsync',
		icon: { light: 'file:../../icons/lipsync.svg', dark: 'file:../../icons/lipsync.dark.svg' },
		group: ['transform'],
		version: [1, 2],
		defaultVersion: 2,
		subtitle: '={{ $parameter["operation"] + ": " + $parameter["resource"] }}',
		description: 'Make a talking video of a person from a picture and a voice recording',
		defaults: { name: 'Lipsync' },
		usableAsTool: true,
		inputs: [NodeConnectionTypes.Main],
		outputs,
		// Conditions with `hide`: with `show`, n8n's editor treats Resource as a choice of credentials and hides the field.
		credentials: [
			{
				name: 'lipsyncApi',
				required: true,
				testedBy: 'testServer',
				displayOptions: { hide: { resource: ['machine'], server: ['input'] } },
			},
			{
				name: 'lipsyncMachineApi',
				required: true,
				displayOptions: { hide: { resource: ['video', 'server'] } },
			},
		],
		webhooks: RESUME_WEBHOOK,
		properties: [
			{
				displayName: 'Resource',
				name: 'resource',
				type: 'options',
				noDataExpression: true,
				options: [
					{ name: 'Video', value: 'video' },
					{ name: 'Machine', value: 'machine' },
					{ name: 'Server', value: 'server' },
				],
				default: 'video',
			},
			...videoProperties,
			...machineProperties,
			...serverProperties,
			...serverChoice,
		],
	};

	methods = {
		loadOptions: { getEngines, getEngineOptions },
		listSearch: { searchEngines, searchJobs },
		credentialTest: { testServer },
	};

	/** Wakes an execution that Video > Generate has parked. */
	async webhook(this: IWebhookFunctions): Promise<IWebhookResponseData> {
		return await wake(this);
	}

	async execute(this: IExecuteFunctions): Promise<INodeExecutionData[][]> {
		const resource = this.getNodeParameter('resource', 0) as string;
		const operation = this.getNodeParameter('operation', 0) as string;
		const chosen = OPERATIONS[resource].find(({ option }) => option.value === operation);
		if (chosen === undefined) {
			throw new NodeOperationError(
				this.getNode(),
				`There is no operation ${resource} > ${operation}`,
				{
					description: 'Choose one from the list',
				},
			);
		}
		const items = await chosen.run(this);
		return chosen.byOutput?.(this, items) ?? [items];
	}
}
