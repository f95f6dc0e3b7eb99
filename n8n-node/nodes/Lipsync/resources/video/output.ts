/** The output fields that several operations on videos, and the trigger, share. */
import type { IExecuteFunctions, INodeProperties } from 'n8n-workflow';

import { VERSION_2 } from '../../operation';

export const outputField: INodeProperties = {
	displayName: 'Put Output File in Field',
	name: 'outputField',
	type: 'string',
	default: 'data',
	hint: 'The name of the output binary field to put the video in',
};

export const keepOnServerField: INodeProperties = {
	displayName: 'Keep on Server',
	name: 'keepOnServer',
	type: 'boolean',
	default: false,
	description:
		'Whether the server keeps the video until it expires, instead of freeing the space soon after the download',
};

export const simplifyField: INodeProperties = {
	displayName: 'Simplify',
	name: 'simplify',
	type: 'boolean',
	default: true,
	description: 'Whether to return a simplified version of the response instead of the raw data',
	displayOptions: { show: { ...VERSION_2 } },
};

/** Whether the output is the simplified one. Version 1 has no such field and always returns the whole answer. */
export function isSimple(context: IExecuteFunctions, itemIndex: number): boolean {
	return context.getNodeParameter('simplify', itemIndex, false) as boolean;
}
