/** Fields that several operations on videos share. */
import type { IExecuteFunctions, INodeProperties } from 'n8n-workflow';

import { VERSION_2 } from '../../operation';

export const outputField: INodeProperties = {
	displayName: 'Put Output File in Field',
	name: 'outputField',
	type: 'string',
	required: true,
	default: 'data',
	hint: 'The name of the output binary field to put the video in',
};

export const simplifyField: INodeProperties = {
	displayName: 'Simplify',
	name: 'simplify',
	type: 'boolean',
	default: true,
	description: 'Whether to return a simplified version of the response instead of the raw data',
	displayOptions: { show: { ...VERSION_2 } },
};

/** Version 1 has no such field and always gave everything. */
export function isSimple(context: IExecuteFunctions, itemIndex: number): boolean {
	return context.getNodeParameter('simplify', itemIndex, false) as boolean;
}
