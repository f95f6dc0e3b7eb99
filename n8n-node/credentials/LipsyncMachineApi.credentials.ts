import type {
	ICredentialDataDecryptedObject,
	ICredentialTestRequest,
	ICredentialType,
	IHttpRequestOptions,
	INodeProperties,
} from 'n8n-workflow';

import { ICON, textOf, withoutTrailingSlashes } from './parts';

/** The address of each provider's API. The server's `lipsync cloud` uses the same addresses. */
export const PROVIDER_URLS: Record<string, string> = {
	vast: 'https://console.vast.ai/api/v0',
	runpod: 'https://api.runpod.io/v2',
	tensordock: 'https://dashboard.tensordock.com/api/v2',
};

/** The account at a provider of rented GPUs. The key goes to the provider only, never to a Lipsync server. */
export class LipsyncMachineApi implements ICredentialType {
	name = 'lipsyncMachineApi';

	displayName = 'Lipsync Rented GPU API';

	icon = ICON;

	documentationUrl = 'https://github.com/n8n-nodes-lipsync/lipsync/tree/main/n8n-node#rented-gpu';

	properties: INodeProperties[] = [
		{
			displayName: 'Provider',
			name: 'provider',
			type: 'options',
			options: [
				{ name: 'RunPod', value: 'runpod' },
				{ name: 'TensorDock', value: 'tensordock' },
				{ name: 'Vast.ai', value: 'vast' },
			],
			default: 'vast',
			description: 'The company that rents you the machine',
		},
		{
			displayName: 'API Key',
			name: 'apiKey',
			type: 'string',
			typeOptions: { password: true },
			required: true,
			default: '',
			hint: 'Make one in the settings of your account there. It must be allowed to read, start and stop machines',
		},
		{
			displayName: 'API URL',
			name: 'apiUrl',
			type: 'string',
			default: '',
			placeholder: 'e.g. https://console.vast.ai/api/v0',
			hint: 'Leave empty for the usual address of the provider',
		},
	];

	async authenticate(
		credentials: ICredentialDataDecryptedObject,
		requestOptions: IHttpRequestOptions,
	): Promise<IHttpRequestOptions> {
		return {
			...requestOptions,
			baseURL: providerUrl(credentials),
			headers: {
				...requestOptions.headers,
				Authorization: `Bearer ${textOf(credentials.apiKey)}`,
			},
		};
	}

	test: ICredentialTestRequest = {
		request: {
			baseURL: `={{ $credentials.apiUrl || ${JSON.stringify(PROVIDER_URLS)}[$credentials.provider] }}`,
			url: '={{ {"vast": "/instances/", "runpod": "/pods", "tensordock": "/instances"}[$credentials.provider] }}',
			method: 'GET',
		},
	};
}

export function providerUrl(credentials: ICredentialDataDecryptedObject): string {
	const usual = PROVIDER_URLS[String(credentials.provider)] ?? '';
	return withoutTrailingSlashes(textOf(credentials.apiUrl) || usual);
}
