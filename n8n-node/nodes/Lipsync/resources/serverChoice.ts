/** The fields that choose the Lipsync server of an item. They stand last because most people never need them. */
import type { INodeProperties } from 'n8n-workflow';

import { VERSION_2 } from '../operation';

const onServers = { ...VERSION_2, resource: ['video', 'server'] };

export const serverChoice: INodeProperties[] = [
	{
		displayName: 'Server',
		name: 'server',
		type: 'options',
		noDataExpression: true,
		options: [
			{
				name: 'From Credential',
				value: 'credential',
				description: 'The address and the token of the Lipsync API credential',
			},
			{
				name: 'From Input',
				value: 'input',
				description:
					'A machine that Machine > Start has just started: address and token from the item',
			},
		],
		default: 'credential',
		description: 'Which server to use',
		displayOptions: { show: onServers },
	},
	{
		displayName: 'Server Address',
		name: 'serverAddress',
		type: 'string',
		required: true,
		default: '={{ $json.url }}',
		placeholder: 'e.g. {{ $json.url }}',
		description: 'Address of the server. The token of the credential is never sent to it.',
		displayOptions: { show: { ...onServers, server: ['input'] } },
	},
	{
		displayName: 'Server Token',
		name: 'serverToken',
		type: 'string',
		typeOptions: { password: true },
		default: '={{ $json.token }}',
		description: 'The token of this server, from the same item',
		displayOptions: { show: { ...onServers, server: ['input'] } },
	},
];
