/** What the panel shows for the resource Server. */
import type { INodeProperties } from 'n8n-workflow';

const onServer = { resource: ['server'] };
const onWait = { ...onServer, operation: ['waitUntilReady'] };

export const serverDescription: INodeProperties[] = [
	{
		displayName: 'Operation',
		name: 'operation',
		type: 'options',
		noDataExpression: true,
		displayOptions: { show: onServer },
		options: [
			{
				name: 'Get Info',
				value: 'getInfo',
				description: 'Get engines, queue and readiness',
				action: 'Get info about the server',
			},
			{
				name: 'Wait Until Ready',
				value: 'waitUntilReady',
				description: 'Wait for a machine that was just started, with its downloads and loading',
				action: 'Wait until the server is ready',
			},
		],
		default: 'getInfo',
	},
	{
		displayName: 'Simplify',
		name: 'simplify',
		type: 'boolean',
		default: true,
		description: 'Whether to return a simplified version of the response instead of the raw data',
		displayOptions: { show: { ...onServer, operation: ['getInfo'] } },
	},
	{
		displayName: 'Engine',
		name: 'engine',
		type: 'options',
		options: [
			{
				name: 'Any',
				value: 'auto',
				description: 'Ready as soon as the server takes jobs, be it with the preview engine',
			},
			{ name: 'InfiniteTalk', value: 'infinitetalk' },
			{ name: 'Preview', value: 'preview' },
			{ name: 'SadTalker', value: 'sadtalker' },
		],
		default: 'auto',
		description:
			'Which engine has to be available. A server may serve the preview engine while it downloads the weights of another.',
		displayOptions: { show: onWait },
	},
	{
		displayName: 'Timeout (Minutes)',
		name: 'timeoutMinutes',
		type: 'number',
		typeOptions: { minValue: 0.01 },
		default: 60,
		description: 'How long to wait before the node fails',
		displayOptions: { show: onWait },
	},
];
