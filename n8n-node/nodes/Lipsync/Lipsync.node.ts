import {
	NodeConnectionTypes,
	type IExecuteFunctions,
	type INodeExecutionData,
	type INodeType,
	type INodeTypeDescription,
} from 'n8n-workflow';

import { getEngines } from './methods/getEngines';
import { serverDescription } from './resources/server';
import { getInfo } from './resources/server/getInfo';
import { waitUntilReady } from './resources/server/waitUntilReady';
import { videoDescription } from './resources/video';
import { cancel } from './resources/video/cancel';
import { download } from './resources/video/download';
import { generate } from './resources/video/generate';
import { getStatus } from './resources/video/getStatus';

type Operation = (context: IExecuteFunctions) => Promise<INodeExecutionData[]>;

const OPERATIONS: Record<string, Record<string, Operation>> = {
	video: { generate, getStatus, download, cancel },
	server: { getInfo, waitUntilReady },
};

export class Lipsync implements INodeType {
	description: INodeTypeDescription = {
		displayName: 'Lipsync',
		name: 'lipsync',
		icon: { light: 'file:../../icons/lipsync.svg', dark: 'file:../../icons/lipsync.dark.svg' },
		group: ['transform'],
		version: [1],
		subtitle: '={{ $parameter["operation"] + ": " + $parameter["resource"] }}',
		description: 'Make a video of a person saying something, from a picture and a recording',
		defaults: { name: 'Lipsync' },
		usableAsTool: true,
		inputs: [NodeConnectionTypes.Main],
		outputs: [NodeConnectionTypes.Main],
		credentials: [{ name: 'lipsyncApi', required: true }],
		properties: [
			{
				displayName: 'Resource',
				name: 'resource',
				type: 'options',
				noDataExpression: true,
				options: [
					{ name: 'Server', value: 'server' },
					{ name: 'Video', value: 'video' },
				],
				default: 'video',
			},
			...videoDescription,
			...serverDescription,
		],
	};

	methods = { loadOptions: { getEngines } };

	async execute(this: IExecuteFunctions): Promise<INodeExecutionData[][]> {
		const resource = this.getNodeParameter('resource', 0) as string;
		const operation = this.getNodeParameter('operation', 0) as string;
		return [await OPERATIONS[resource][operation](this)];
	}
}
