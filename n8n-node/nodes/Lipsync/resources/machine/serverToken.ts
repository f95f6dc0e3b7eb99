/** The field Server Token: the token of the Lipsync server on a rented machine. */
import type { IExecuteFunctions, INodeProperties } from 'n8n-workflow';

import { text } from '../../items';

export const serverTokenField: INodeProperties = {
	displayName: 'Server Token',
	name: 'machineToken',
	type: 'string',
	typeOptions: { password: true },
	default: '={{ $json.token }}',
	description: 'The token of the server on this machine, or token from the output of Start',
};

export function readServerToken(context: IExecuteFunctions, itemIndex: number): string {
	return text(context.getNodeParameter('machineToken', itemIndex, ''));
}
