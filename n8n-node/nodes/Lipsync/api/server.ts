/**
 * The Lipsync server of an item, and one request to it.
 *
 * From Credential: address, token, proxy headers and certificate policy come from the Lipsync API credential, with its
 * expressions evaluated for this item. From Input: address and token both come from the item. The credential's token is
 * never sent to an address from an item, so the data of a workflow cannot send the token to a stranger's host.
 */
import {
	NodeOperationError,
	type IDataObject,
	type IExecuteFunctions,
	type IHookFunctions,
	type IHttpRequestOptions,
	type ILoadOptionsFunctions,
	type IPollFunctions,
	type IWebhookFunctions,
} from 'n8n-workflow';

import { serverAddress } from '../../../credentials/LipsyncApi.credentials';

/** The functions that n8n gives to an execution, to a drop-down list, to a trigger or to a webhook. */
export type Context =
	| IExecuteFunctions
	| IHookFunctions
	| ILoadOptionsFunctions
	| IPollFunctions
	| IWebhookFunctions;

export interface Server<C extends Context = Context> {
	context: C;
	/** The index of the input item; undefined outside an execution. */
	itemIndex?: number;
	/** Where address and token come from; errors name the fields to check. */
	from: 'credential' | 'input';
	/** The address of the server, without a slash at the end. */
	address: () => Promise<string>;
	/** Send one request. `signal` aborts the request. */
	exchange: (options: IHttpRequestOptions, signal?: AbortSignal) => Promise<unknown>;
}

/** The server that item `itemIndex` names. */
export function serverOf(context: IExecuteFunctions, itemIndex: number): Server<IExecuteFunctions> {
	const from = context.getNodeParameter('server', itemIndex, 'credential');
	return from === 'input' ? byInput(context, itemIndex) : byCredential(context, itemIndex);
}

/** The server of the credential. */
export function byCredential<C extends Context>(context: C, itemIndex?: number): Server<C> {
	// n8n's request helper reads the credential of the first item, and the stop signal, from its `this`. `bound` makes a
	// `this` that has the credential of the right item and our own signal.
	const bound = (signal?: AbortSignal): C =>
		Object.create(context, {
			getCredentials: {
				value: async (type: string) =>
					await (context as IExecuteFunctions).getCredentials(type, itemIndex),
			},
			getExecutionCancelSignal: { value: () => signal },
		}) as C;
	return {
		context,
		itemIndex,
		from: 'credential',
		address: async () => {
			const { baseUrl } = await bound().getCredentials('lipsyncApi');
			return String(baseUrl ?? '')
				.trim()
				.replace(/\/+$/, '');
		},
		exchange: async (options, signal) =>
			(await context.helpers.httpRequestWithAuthentication.call(bound(signal), 'lipsyncApi', {
				...options,
				abortSignal: signal,
			})) as unknown,
	};
}

function byInput(context: IExecuteFunctions, itemIndex: number): Server<IExecuteFunctions> {
	const text = (name: string) => String(context.getNodeParameter(name, itemIndex, '') ?? '').trim();
	const address = addressFromInput(context, text('serverAddress'), itemIndex);
	const token = text('serverToken');
	return {
		context,
		itemIndex,
		from: 'input',
		address: async () => await Promise.resolve(address),
		exchange: async (options, signal) =>
			(await context.helpers.httpRequest({
				...options,
				baseURL: address,
				headers: {
					...options.headers,
					...(token ? { Authorization: `Bearer ${token}` } : {}),
				} as IDataObject,
				abortSignal: signal,
			})) as unknown,
	};
}

function addressFromInput(context: IExecuteFunctions, text: string, itemIndex: number): string {
	try {
		return serverAddress(text, 'Server Address');
	} catch (error) {
		throw new NodeOperationError(context.getNode(), (error as Error).message, {
			description:
				'Map it from the node that started the machine: {{ $json.url }}. Or set Server to From Credential.',
			itemIndex,
		});
	}
}
